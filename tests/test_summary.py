"""Terminal and report say what stands beside F_bias, how small and fast a student is, and the notes."""

import pytest
from reports import Page, metrics, writing

from compress.reporting import notes, summary

LATENCY = {
    "device": "A Processor",
    "threads": 2,
    "load_before": 0.1,
    "precision": "float32",
    "tokens": {"teacher": 40, "student": 40},
    "timings": [{"batch": 1, "teacher_ms": 12.34, "student_ms": 6.1, "repeats": 50}],
    "left_out": ["a batch of 32 takes too long here"],
}


@pytest.fixture
def write(tmp_path):
    return writing(tmp_path)


def cut(**changes):
    """Metrics of a student that has lost layers, heads and neurons, and no single weight."""
    found = metrics() | {"latency": LATENCY} | changes
    found["teacher"] |= {
        "model": "/models/mine",
        "origin": "given as teacher.model",
        "shape": {"layers": 12, "heads": 144, "ffn_neurons": 36864, "hidden_size": 768},
        "weights_bytes": 437_961_724,
    }
    found["student"] |= {
        "sparsity": 0.0,
        "shape": {"layers": 6, "heads": 60, "ffn_neurons": 9216, "hidden_size": 768},
        "weights_bytes": 180_400_000,
    }
    return found


def apart(value=0.052, low=0.040, high=0.065):
    return {"delta_difference": {"value": value, "interval": [low, high]}}


def test_a_smaller_student_is_introduced_by_what_it_keeps(write):
    page = Page(write(cut()))
    rows = {row[0]: row[1:] for row in page.named["results"]}
    assert "Sparsity, %" not in rows and "Sparsity" not in page.text.split("Configuration")[0]
    assert rows["Layers"] == ["12", "6", "−50.0 %"]
    assert rows["Attention heads"] == ["144", "60", "−58.3 %"]
    assert rows["ffn neurons"] == ["36,864", "9,216", "−75.0 %"]
    assert rows["Weights on disk, MB"] == ["438", "180", "−58.8 %"]
    assert rows["Latency, batch of 1, ms"] == ["12.3", "6.10", "−50.6 %"]
    assert rows["Model"][0] == "/models/mine given as teacher.model"
    assert "Latency: 40 tokens, A Processor, 2 threads, float32, median of 50." in page.text
    assert "Latency not measured: a batch of 32 " in page.text


def test_the_terminal_says_the_same():
    lines = summary.terminal(cut()).splitlines()
    assert lines[3].startswith("Student: 6 layers (teacher 12), 60 attention heads (teacher 144), ")
    assert "9,216 ffn neurons (teacher 36,864), 180 MB " in lines[3] and "(teacher 438)" in lines[3]
    assert lines[4].startswith("Latency: 6.10 ms for a batch of 1 (teacher 12.3); 40 tokens, ")
    for fact in ("A Processor", "2 threads", "float32", "50"):
        assert fact in lines[4]


def test_zeros_are_not_sold_as_size_or_speed():
    found = cut()
    found["student"] |= {"sparsity": 0.4, "shape": found["teacher"]["shape"]}
    assert "same shape, so a difference is noise." in "\n".join(summary.size(found))
    first, second, *_ = summary.size(found)
    assert first.startswith("Student: the teacher's dimensions, 180 MB")
    assert second == f"Sparsity 40.0 %: {summary.ZEROS}."
    found["compression"] = "imp2of4"
    assert summary.size(found)[1] == f"Sparsity 40.0 %: {summary.ZEROS}{summary.PACKED}."
    assert summary.size(metrics()) == []


def test_the_difference_stands_beside_f_bias(write):
    found = metrics() | apart() | {"f_bias_interval": [1.1, 1.3]}
    for role, interval in (("teacher", [0.27, 0.31]), ("student", [0.32, 0.36])):
        found[role]["delta_interval"] = interval
    rows = {row[0]: row[1:] for row in Page(write(found)).named["results"]}
    assert rows["Delta"] == ["0.290 [0.270, 0.310]", "0.342 [0.320, 0.360]", ""]
    assert rows["Delta minus the teacher's"] == ["", "+0.052 [0.040, 0.065]", ""]
    assert rows["Fbias"] == ["", "1.182 [1.100, 1.300]", ""]
    told = summary.verdict(found)
    assert "1.182 times the teacher's" in told and "+0.052 (95 % interval 0.040 to 0.065)" in told


@pytest.mark.parametrize(("low", "high", "chance"), [(-0.01, 0.02, True), (0.01, 0.02, False)])
def test_a_difference_that_chance_explains_is_said_to_be_one(low, high, chance):
    told = summary.verdict(metrics() | apart(0.015, low, high))
    assert ("which chance can explain" in told) == chance


def test_no_f_bias_over_nothing_whatever_the_place(write):
    """Teacher Delta 0.003: the ratio was 109.8 for a student that is no worse."""
    why = "the teacher is not worse on OOD than on dev beyond chance (Delta 0.003)"
    found = metrics((0.842, 0.8395), (0.838, 0.551)) | apart(0.34, 0.33, 0.35)
    found |= {"f_bias": None, "f_bias_interval": None, "f_bias_reason": why}
    assert f"F_bias is n/a, because {why}. Its Delta differs" in summary.verdict(found)
    lines = summary.table(found).splitlines()
    assert lines[2].endswith("+0.340 [0.330, 0.350]     n/a") and lines[3] == f"F_bias n/a: {why}"
    page = Page(write(found))
    assert f"Fbias is n/a: {why}." in page.text.replace("F bias", "Fbias")


def test_notes_about_the_data_do_not_doubt_f_bias(write):
    found = metrics() | {"data_notes": ["3 rows <b>are</b> twice.", "b\x1b[31m"]}
    assert notes.doubt(found) == "" and "1.182 *" not in summary.terminal(found)
    assert summary.terminal(found).splitlines()[-2:] == ["3 rows <b>are</b> twice.", "b [31m"]
    source = write(found)
    assert "3 rows &lt;b&gt;are&lt;/b&gt; twice." in source and 'class="notes"' not in source


def test_what_a_reader_must_know_besides_does_not_doubt_f_bias(write):
    remark = "the student is that of epoch 2 of 3, chosen by dev accuracy (student.keep)."
    found = metrics() | {"remarks": [remark]}
    assert "1.182 times the teacher's" in summary.verdict(found) and "*" not in summary.terminal(found)
    assert remark in summary.terminal(found).splitlines()
    source = write(found)
    assert remark in Page(source).text and 'class="notes"' not in source
    assert "Read with the notes above" not in source


def test_any_note_is_told_and_marks_f_bias(write):
    found = metrics() | {"notes": ["The teacher is at chance on train.", "Another."]}
    assert summary.terminal(found).splitlines()[-2:] == [f"* {note}" for note in found["notes"]]
    assert "1.182 *" in summary.terminal(found)
    assert "which the notes speak against" in summary.verdict(found)
    assert "The teacher is at chance on train." in Page(write(found)).text
