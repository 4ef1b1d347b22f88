"""A run in a few lines: the table for the terminal, the verdict, size and speed.

Every function takes the run's metrics as in metrics.json. `table` and `verdict` raise a ValueError that
names a required key that is missing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from compress.reporting import notes, tables
from compress.reporting.numbers import (
    amount,
    count,
    interval,
    megabytes,
    number,
    percent,
    points,
    printable,
    signed,
    significant,
)
from compress.scoring import bias, measures

Metrics = Mapping[str, Any]
PARTS = (("layers", "layers"), ("heads", "attention heads"), ("ffn_neurons", "ffn neurons"))
ZEROS = "zeros are stored and multiplied like other numbers, so they save neither space nor time"
PACKED = "; a GPU may save both once its library (torch.sparse, torchao) has packed 2:4 ones"
NAMES = {"teacher": "teacher", "plain": "student, plain loss", "student": "student"}
"""Role of a model -> its name in tables, in their order."""
MEASURED = ("dev", "ood_pooled")
_RESULT_KEYS = ("params", "nonzero_params", "dev", "ood", "ood_pooled", "delta")


def cells(metrics: Metrics) -> list[list[str]]:
    """The table as rows of cells: a header, teacher, the student with the plain loss, student.

    Accuracies in percent; the pooled OOD column appears where there are several OOD sets; an F_bias
    that a note speaks against ends with " *". What Delta is taken of has columns of its own where that
    is not the accuracy.
    """
    check(metrics)
    sets = list(metrics["teacher"]["ood"])
    pooled = len(sets) > 1
    header = ["", "parameters", "non-zero", "dev %", *(f"{printable(name)} %" for name in sets)]
    header += ["pooled OOD %"] if pooled else []
    what = measure_name(metrics)
    header += [f"dev {what}", f"OOD {what}"] if what else []
    rows = [[*header, f"Delta ({what})" if what else "Delta", "Delta diff [95 %]", "F_bias"]]
    for role in roles(metrics):
        model = metrics[role]
        row = [
            NAMES[role],
            *("-" if model[key] is None else count(model[key]) for key in _RESULT_KEYS[:2]),
            percent(model["dev"]),
        ]
        row += [percent(model["ood"].get(name)) for name in sets]
        row += [percent(model["ood_pooled"])] if pooled else []
        own = model["measure"] if what else {}
        row += [measure(metrics, own[key]) for key in MEASURED if what]
        compared = metrics if role == "student" else model
        bias_cells = [difference(compared), number(compared.get("f_bias")) + notes.doubt(compared)]
        row += [number(model["delta"]), *(["-", "-"] if role == "teacher" else bias_cells)]
        rows.append(row)
    return rows


def measure_name(metrics: Metrics) -> str:
    """What Delta and F_bias are taken of; empty for the accuracy."""
    key = metrics.get("metric", measures.ACCURACY)
    return "" if key == measures.ACCURACY else measures.NAMES[key]


def measure(metrics: Metrics, value: float | None) -> str:
    """A figure of the kind that Delta is taken of: in percent, a correlation as a number."""
    return number(value) if metrics.get("metric") == "matthews" else percent(value)


def of_measure(metrics: Metrics, word: str = "of") -> str:
    """` of macro F1` behind "Delta", with another word if one is given; empty for the accuracy."""
    name = measure_name(metrics)
    return f" {word} {name}" if name else ""


def table(metrics: Metrics) -> str:
    """Return the plain-text table for the end of a run: one row for each model.

    Aligned lines (and one that says why where F_bias is n/a), no newline at the end.
    """
    lines = tables.aligned(cells(metrics))
    if metrics.get("f_bias") is None:
        lines.append(f"F_bias n/a: {f_bias_reason(metrics)}")
    return "\n".join(lines).replace("−", "-")


def terminal(metrics: Metrics) -> str:
    """The table, then what the models differ in, what is beside them, the notes on F_bias (`*`)."""
    lines = [*gain(metrics), *flips(metrics), *size(metrics), *not_timed(metrics), *int8(metrics)]
    lines += notes.beside(metrics)
    shown = [printable(line).replace("−", "-") for line in lines]
    doubts = [f"* {printable(note)}" for note in notes.against(metrics)]
    return "\n".join([table(metrics), *shown, *doubts])


def verdict(metrics: Metrics) -> str:
    """Say what compression cost on dev, on OOD, and in relative bias: a sentence, two with intervals.

    Differences are those between the percentages as shown, and F_bias counts as equal to 1 where it
    shows as 1.000.
    """
    check(metrics)
    teacher, student = metrics["teacher"], metrics["student"]
    kept, had = percent(student["dev"]), percent(teacher["dev"])
    change = points(student["dev"], teacher["dev"])
    if not change:
        sentence = f"The student keeps all of the teacher's {had} % on dev"
    elif change < 0:
        sentence = f"The student keeps {kept} of the teacher's {had} % on dev"
    else:
        sentence = f"The student gains {amount(change)} on dev ({kept} % against {had} %)"
    change = points(student["ood_pooled"], teacher["ood_pooled"])
    if change is None:
        why = "OOD accuracy was not measured" if teacher["ood"] else bias.NO_OOD
        return f"{sentence}; {why}, so its relative bias is not known."
    shown = f"{percent(student['ood_pooled'])} % against {percent(teacher['ood_pooled'])} %"
    sets = list(teacher["ood"])
    where = f"on OOD ({sets[0]}" if len(sets) == 1 else f"on OOD ({len(sets)} sets pooled"
    if not change:
        sentence += f", and stays level {where}, {percent(student['ood_pooled'])} %)"
    else:
        sentence += f", and {'loses' if change < 0 else 'gains'} {amount(change)} {where}, {shown})"
    return " ".join([f"{sentence}: {_bias_clause(metrics)}.", *_difference_sentence(metrics)])


def roles(metrics: Metrics) -> list[str]:
    """The models of a run: teacher, plain (the student with the plain loss) if there, student."""
    return [role for role in NAMES if role in metrics]


def gain(metrics: Metrics) -> list[str]:
    """What the loss changes against the plain loss, and whether chance can explain it, in a text."""
    found, plain = metrics.get("gain"), metrics.get("plain")
    if not found or not plain:
        return []
    student = metrics["student"]
    parts = _differences(student, plain, found, of_measure(metrics))
    if None not in (biases := [model.get("f_bias") for model in (metrics, plain)]):
        parts.append(f"F_bias {number(biases[0])} instead of {number(biases[1])}")
    sentence = f"Against the same student with the plain loss: {', '.join(parts)}."
    key, where = ("ood_pooled", "OOD") if student["ood"] else ("dev", "dev")
    if key not in found or found[key]["interval"] is None:
        return [sentence, *plain_teacher(metrics)]
    low, high = found[key]["interval"]
    what = " in accuracy" if measure_name(metrics) else ""
    if low <= 0 <= high:
        sentence += f" On {where}, chance can explain the difference{what}."
    else:
        better = "better" if low > 0 else "worse"
        sentence += f" On {where} it is {better}{what}, beyond chance over the samples."
    return [sentence, *plain_teacher(metrics)]


def plain_teacher(metrics: Metrics) -> list[str]:
    """A sentence about a teacher with the plain loss beside another, and F_bias against it."""
    if (teacher := metrics.get("plain_teacher")) is None:
        return []
    sentence = f"A teacher with the plain loss has {percent(teacher['dev'])} % on dev"
    if teacher["delta"] is not None:
        sentence += f" and {percent(teacher['ood_pooled'])} % on OOD"
        sentence += f", Delta{of_measure(metrics)} {number(teacher['delta'])}"
    found = [
        f"{number(one['f_bias'])} {interval(one['f_bias_interval'])} of the {name}"
        for role, name in (("student", "student"), ("plain", "student with the plain loss"))
        if (one := teacher[role])["f_bias"] is not None
    ]
    return [f"{sentence}; F_bias against it: {', '.join(found)}." if found else f"{sentence}."]


def _differences(new: Metrics, old: Metrics, found: Metrics, of: str) -> list[str]:
    """Accuracy on dev and OOD, and Delta, of one model instead of another.

    found: their differences; of: see `of_measure`.
    """
    parts = [
        f"{name} {percent(new[key])} instead of {percent(old[key])} % "
        f"({signed(points(new[key], old[key]))} points{_bounds(found[key]['interval'], 100, 1)})"
        for key, name in (("dev", "dev"), ("ood_pooled", "OOD"))
        if key in found
    ]
    if "delta" in found:
        delta = found["delta"]
        parts.append(f"Delta{of} {signed(delta['value'], 3)}{_bounds(delta['interval'], 1, 3)}")
    return parts


def int8(metrics: Metrics) -> list[str]:
    """Sentences about the student's ONNX file in 8-bit integers, if the run has made one."""
    own = metrics.get("int8")
    if not own:
        return []
    parts = _differences(own, metrics["student"], own["difference"], of_measure(metrics))
    lines = [int8_agreement(own), f"In 8-bit integers: {', '.join(parts)}."]
    latency = own["latency"]
    timed = [
        f"{significant(one['int8_ms'])} ms for a batch of {one['batch']} "
        f"(float32 {significant(one['float_ms'])})"
        for one in latency["timings"]
    ]
    if timed:
        lines.append(f"Latency of the ONNX files: {', '.join(timed)}; {latency_setting(latency)}.")
    return [*lines, *(f"Latency of the ONNX files not measured: {why}." for why in latency["left_out"])]


def int8_agreement(found: Metrics) -> str:
    """Size of the ONNX file in 8-bit integers, and how often it answers as the student does."""
    size, whole = (megabytes(found["bytes"][name]) for name in ("int8", "float"))
    same = found["same_answer"]["dev"]
    low, high = map(percent, same["interval"])
    return (
        f"ONNX file in 8-bit integers: {size} MB (float32 {whole}), the student's class on "
        f"{percent(same['share'])} % of dev (95 % interval {low} to {high})."
    )


def flips(metrics: Metrics) -> list[str]:
    """A sentence for each student: dev samples that only its teacher, or only it, gets right."""
    sentences = []
    for role in roles(metrics)[1:]:
        if found := metrics[role].get("flips"):
            lost, gained = (_flipped(found["dev"][kind]) for kind in ("lost", "gained"))
            name = NAMES[role].replace(", ", " with the ")
            sentences.append(
                f"The {name} gets {lost[0]} dev samples wrong that the teacher gets right {lost[1]}, "
                f"and {gained[0]} right that the teacher gets wrong {gained[1]}."
            )
    return sentences


def _flipped(part: Mapping[str, Any]) -> tuple[str, str]:
    """A number of samples, and its share with the 95 % interval."""
    low, high = map(percent, part["interval"])
    share = f"({percent(part['share'])} % of dev, 95 % interval {low} to {high})"
    return f"{part['samples']:,}", share


def _bounds(interval: Sequence[float] | None, factor: float, digits: int) -> str:
    """`, 95 % interval a to b` of an interval times a factor; empty if it is not known."""
    if interval is None:
        return ""
    low, high = (signed(factor * bound, digits) for bound in interval)
    return f", 95 % interval {low} to {high}"


def difference(metrics: Metrics) -> str:
    """Delta of the student less that of the teacher, with its 95 % interval; "n/a" if unknown."""
    found = metrics.get("delta_difference")
    if found is None:
        return "n/a"
    return f"{signed(found['value'], 3)} {interval(found['interval'])}"


def f_bias_reason(metrics: Metrics) -> str:
    """Say why F_bias is n/a; empty where it is not."""
    delta = metrics["teacher"]["delta"]
    if metrics.get("f_bias") is not None:
        return ""
    if why := metrics.get("f_bias_reason"):
        return str(why)
    if delta is None:
        return "no OOD accuracy of the teacher was measured"
    why = bias.reason(delta, None, measure_name(metrics) or None) if delta <= 0 else None
    return why or "the run recorded none"


def zeros(metrics: Metrics) -> str:
    """What the student's zeros are worth, as a clause."""
    return ZEROS + (PACKED if "2of4" in str(metrics.get("compression")) else "")


def size(metrics: Metrics) -> list[str]:
    """Sentences about what the student keeps, its weights on disk, and how fast both models are."""
    teacher, student = metrics["teacher"], metrics["student"]
    small, large = ((model.get("shape") or {}) for model in (student, teacher))
    sizes = [model.get("weights_bytes") for model in (student, teacher)]
    unknown = only_scores(metrics)
    if small and small == large:
        parts = ["the teacher's dimensions"]
    else:
        shared = [(key, name) for key, name in PARTS if key in small and (unknown or key in large)]
        parts = [f"{small[key]:,} {name}" + _beside(large.get(key)) for key, name in shared]
    if sizes[0] is not None and (unknown or sizes[1] is not None):
        theirs = None if sizes[1] is None else megabytes(sizes[1])
        parts.append(f"{megabytes(sizes[0])} MB of weights on disk" + _beside(theirs))
    lines = [f"Student: {', '.join(parts)}."] if parts else []
    if lines and (sparsity := student.get("sparsity")):
        lines.append(f"Sparsity {percent(sparsity)} %: {zeros(metrics)}.")
    latency = metrics.get("latency") or {"timings": []}
    timed = [
        f"{significant(one['student_ms'])} ms for a batch of {one['batch']}"
        + _beside(significant(one["teacher_ms"]) if "teacher_ms" in one else None)
        for one in latency["timings"]
    ]
    lines += unknown
    if not timed:
        return lines
    noise = "; models of the same shape, so a difference is noise" if small and small == large else ""
    return [*lines, f"Latency: {', '.join(timed)}; {latency_setting(latency)}{noise}."]


def _beside(teachers: int | str | None) -> str:
    """The teacher's figure behind the student's; empty where there is none."""
    if teachers is None:
        return ""
    return f" (teacher {teachers:,})" if isinstance(teachers, int) else f" (teacher {teachers})"


def only_scores(metrics: Metrics) -> list[str]:
    """A sentence that says why a teacher has no size and no latency."""
    if metrics["teacher"].get("params", 0) is not None:
        return []
    return ["The teacher is known by its probabilities only, so its size and latency are not shown."]


def not_timed(metrics: Metrics) -> list[str]:
    """Sentences that say why a latency was not measured."""
    reasons = (metrics.get("latency") or {"left_out": []})["left_out"]
    return [f"Latency not measured: {why}." for why in reasons]


def latency_setting(latency: Mapping[str, Any]) -> str:
    """How the latency was measured: tokens, device, threads, precision, repeats."""
    lengths = latency["tokens"]
    if len(alike := set(lengths.values())) == 1:
        tokens = f"{alike.pop()} tokens"
    else:
        tokens = f"{lengths['student']} tokens (teacher {lengths['teacher']})"
    threads = latency["threads"]
    used = "" if threads is None else f", {threads} thread{'s' * (threads != 1)}"
    repeats = " and ".join(dict.fromkeys(str(one["repeats"]) for one in latency["timings"]))
    median = f", median of {repeats}" if repeats else ""
    return f"{tokens}, {latency['device']}{used}, {latency['precision']}{median}"


def check(metrics: Metrics) -> None:
    """Raise a ValueError unless the models have all results."""
    require(metrics, ("teacher", "student"), "")
    for role in roles(metrics):
        require(metrics[role], _RESULT_KEYS, f"{role}.")


def require(mapping: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    """Raise a ValueError that names the first missing key."""
    for key in keys:
        if key not in mapping:
            raise ValueError(f"the metrics lack the required key {where + key!r}")


def _bias_clause(metrics: Metrics) -> str:
    """Return the verdict's part on relative bias."""
    f_bias = metrics.get("f_bias")
    if f_bias is None:
        return f"F_bias is n/a, because {f_bias_reason(metrics)}"
    shown = round(f_bias, 3)
    if metrics["vanished"]:
        return f"F_bias ({shown:.3f}) says nothing, because the student has collapsed"
    if set(metrics["at_chance"]) >= set(metrics["teacher"]["ood"]):
        chance = "chance" if measure_name(metrics) else "the majority class"
        why = f"the teacher is not clearly above {chance} on OOD"
        return f"F_bias ({shown:.3f}) says nothing, because {why}"
    if notes.doubt(metrics):
        return f"F_bias is {number(f_bias)}, which the notes speak against"
    bias_by = f"its relative bias{of_measure(metrics, 'by')}"
    if shown == 1:
        return f"{bias_by} is the same as the teacher's"
    if shown > 1:
        return f"{bias_by} is {shown:.3f} times the teacher's"
    if shown > 0:
        return f"{bias_by} is only {shown:.3f} times the teacher's"
    return f"it is no worse on OOD than on dev, so no relative bias is left ({number(f_bias)})"


def _difference_sentence(metrics: Metrics) -> list[str]:
    """The difference of the Deltas with its interval, where it is known."""
    found = metrics.get("delta_difference")
    if found is None or found["interval"] is None:
        return []
    low, high = found["interval"]
    chance = ", which chance can explain" if low <= 0 <= high else ""
    return [
        f"Its Delta{of_measure(metrics)} differs from the teacher's by {signed(found['value'], 3)} "
        f"(95 % interval {number(low)} to {number(high)}){chance}."
    ]
