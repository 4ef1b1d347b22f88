"""Bytes of a rank's tensors in each part of a run, as functions of sizes and settings.

What DeepSpeed 0.19.6 allocates, read from its source and held against measured live bytes
(tests/test_plan_measured.py). Each function gives items by name, in bytes; their sum is the peak. Not
included: the libraries themselves, the device's context, fragmentation, buffers of NCCL or gloo.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from compress.models.weight_files import SHARD_BYTES
from compress.plan.engine import FLOAT, Engine
from compress.plan.sizes import Sizes
from compress.stages import latency
from compress.stages.parity import SAMPLES

MOMENTS = 8
"""Bytes of the two averages of Adam, of each weight."""
REDUCED = 500_000_000
"""Numbers that stage 0 sums over the ranks at a time, in a copy."""
KEPT = {False: {4: 40, 2: 20}, True: {4: 40, 2: 24}}
"""Bytes that a block keeps of a token for the backward pass, for each number of the hidden state: with
a plain feed-forward layer or a gated one, by bytes of a weight. Counted on BERT and Llama; attention
keeps none of its weights (on a CPU it does if they have dropout), dropout keeps a byte."""
MAGNITUDE = 8
"""Bytes of each masked weight while a threshold is found, counted: magnitude, candidates, new mask."""
BUCKET = "bucket of gradients"
"""Of DeepSpeed, allocated whole and filled as far as there are gradients."""
Items = dict[str, int]


@dataclass(frozen=True)
class Load:
    """What a rank computes on.

    activations, importance: bytes that a micro-batch, and a pass of the importance of `gated` samples,
    keep for the backward pass; inputs, tokens: tokens of a micro-batch, and of a batch of scoring;
    length: of a sample; train, scored: samples of train, and of dev and the OOD sets; checkpointing:
    activations are computed again; teacher: numbers of a layer-wise teacher's weights; saved:
    checkpoints are written; cuts: heads or ffn neurons are removed; best: the weights of the best epoch
    are kept.
    """

    activations: int
    importance: int
    gated: int
    inputs: int
    tokens: int
    length: int
    train: int
    scored: int
    classes: int
    checkpointing: bool = False
    teacher: int = 0
    saved: bool = True
    cuts: bool = False
    best: bool = False

    @property
    def compared(self) -> int:
        """Samples of the parity check."""
        return min(SAMPLES, self.scored)


@dataclass(frozen=True)
class Need:
    """Bytes of a rank in a part of a run, on its device and on the host, by what needs them.

    optional: the part is left out where memory does not suffice.
    """

    stage: str
    device: Mapping[str, int]
    host: Mapping[str, int]
    optional: bool = False

    @property
    def on_device(self) -> int:
        """Of all."""
        return sum(self.device.values())

    @property
    def on_host(self) -> int:
        """Of all."""
        return sum(self.host.values())


def activations(sizes: Sizes, width: int, samples: int, length: int) -> int:
    """Bytes that a forward pass keeps for the backward pass, for samples of so many tokens.

    width: bytes of a weight.
    """
    each = KEPT[sizes.gated][width] * sizes.hidden + (4 if sizes.gated else 2) * width * sizes.wide
    each += 3 * width * sizes.heads * length
    return samples * length * (sizes.layers * each + 3 * width * sizes.hidden)


def steady(sizes: Sizes, engine: Engine) -> Items:
    """Between two steps, from the first step on."""
    count, share = sizes.parameters, _share(sizes, engine)
    master = 0 if engine.zero == 0 and engine.width == FLOAT else FLOAT * share
    items = {
        "weights": engine.width * (share if engine.zero == 3 else count),
        "master weights": master,
        "states of Adam": MOMENTS * share,
        "masks": sizes.masked // engine.shares,
    }
    if engine.zero == 3:
        items["gradients"] = engine.width * share
        items["gathered weights"] = engine.width * sizes.below(engine.persistence)
        items[BUCKET] = engine.width * engine.bucket
    return items


def forward(sizes: Sizes, engine: Engine, kept: int) -> Items:
    """At the end of a forward pass that keeps so many bytes for the backward pass."""
    return steady(sizes, engine) | {
        "activations": kept,
        "gathered weights": _gathered(sizes, engine),
    }


def backward(sizes: Sizes, engine: Engine, kept: int) -> Items:
    """In the backward pass: activations go while gradients come.

    At ZeRO 2 and 3 a bucket is reduced when it is full: then so much of the pass is done, and before
    the last one as much of the sums is there.
    """
    count, width, own = sizes.parameters, engine.width, steady(sizes, engine)
    moved = min(engine.bucket, count)
    if engine.zero == 0:
        copied = width * (count + min(count, REDUCED))
        return own | ({"activations": kept} if kept > copied else {"gradients": copied})
    bucket = {BUCKET: width * engine.bucket}
    part = width * _share(sizes, engine)
    if engine.zero == 1:
        summed = width * (count - moved) + part
        return own | bucket | ({"activations": kept} if kept > summed else {"gradients": summed})
    left = 1 - moved / count
    reduced = {"activations": round(left * kept), "copy that is reduced": width * moved}
    if engine.zero == 2:
        return own | bucket | reduced | {"gradients": round(left * part)}
    return own | reduced | {"gathered weights": _gathered(sizes, engine)}


def step(sizes: Sizes, engine: Engine) -> Items:
    """In the optimiser's step."""
    count, own = sizes.parameters, steady(sizes, engine)
    if engine.zero == 0:
        half = FLOAT * count if engine.width < FLOAT else 0
        own["gradients"] = engine.width * count + half
        return own | {"temporaries of Adam": engine.temporaries * FLOAT * sizes.largest}
    group = -(-sizes.group // engine.ranks)
    if engine.zero == 3:
        group = min(group, engine.sub_group + -(-sizes.largest // engine.ranks))
    else:
        own["gradients"] = engine.width * _share(sizes, engine)
    own["gradients in float32"] = FLOAT * group
    return own | {"temporaries of Adam": engine.temporaries * FLOAT * group}


def refresh(sizes: Sizes, engine: Engine) -> Items:
    """While new masks are found, from the magnitudes of the masked weights."""
    return steady(sizes, engine) | {"magnitudes": MAGNITUDE * sizes.masked // engine.shares}


def _share(sizes: Sizes, engine: Engine) -> int:
    """Numbers of the weights that this rank updates."""
    if engine.zero == 3:
        return sizes.padded(engine.ranks)
    return -(-sizes.parameters // engine.shares)


def staying(sizes: Sizes, engine: Engine) -> int:
    """Numbers that are gathered at ZeRO 3 when the backward pass begins, from the third step on.

    What is used again within the reuse distance stays: the last half of it is there at the turn.
    Every module that runs also fetches `prefetch` more of what comes next, however far ahead that is,
    until `live` are there, and what was fetched for the backward pass is not freed by the forward pass.
    """
    ahead = engine.live if engine.prefetch else 0
    return min(sizes.parameters, max(ahead, engine.reuse // 2, sizes.below(engine.persistence)))


def _gathered(sizes: Sizes, engine: Engine) -> int:
    """Bytes of gathered weights at ZeRO 3."""
    return engine.width * _fetched(sizes, engine)


def _fetched(sizes: Sizes, engine: Engine) -> int:
    """Numbers that are gathered at ZeRO 3: what stays, and a copy of what comes at once.

    One rank gathers nothing.
    """
    if engine.zero < 3 or engine.ranks == 1:
        return 0
    ahead = 2 * min(engine.prefetch, engine.live, sizes.parameters)
    module = sizes.module if engine.prefetch else 0
    stays = min(staying(sizes, engine) + module, sizes.parameters)
    return max(stays + max(sizes.coming, ahead) // 2, sizes.coming)


def training(sizes: Sizes, engine: Engine, load: Load) -> Items:
    """The largest need of a training, of forward pass, backward pass, step and new masks."""
    kept = _kept(sizes, engine, load, load.activations, load.inputs)
    parts = [forward(sizes, engine, kept), backward(sizes, engine, kept), step(sizes, engine)]
    parts += [refresh(sizes, engine)] if sizes.masked else []
    items = max(parts, key=lambda part: sum(part.values()))
    teacher = -(-load.teacher // (engine.ranks if engine.zero == 3 else 1))
    return items | ({"teacher of layer-wise terms": FLOAT * teacher} if teacher else {})


def _kept(sizes: Sizes, engine: Engine, load: Load, activations: int, tokens: int) -> int:
    """Bytes kept for the backward pass: with checkpointing the inputs of the blocks, and one's own."""
    if not load.checkpointing:
        return activations
    return activations // sizes.layers + sizes.layers * engine.width * sizes.hidden * tokens


def loading(sizes: Sizes, engine: Engine) -> Items:
    """From the files to an engine; at ZeRO 3 one tensor after another."""
    share = FLOAT * _share(sizes, engine)
    if engine.zero == 3:
        read = {"own weights, and one tensor": share + FLOAT * sizes.largest}
        built = {k: v for k, v in steady(sizes, engine).items() if k != "states of Adam"}
        return max(read | {"weights": 0}, built, key=lambda items: sum(items.values()))
    if engine.zero == 0:
        return step(sizes, engine) if engine.width < FLOAT else {"weights": FLOAT * sizes.parameters}
    flat = {"weights": FLOAT * sizes.parameters, "flat copy": engine.width * sizes.group}
    built = {"weights": engine.width * sizes.parameters, "master weights, first gradients": 2 * share}
    return max(flat, built, key=lambda items: sum(items.values()))


def scoring(sizes: Sizes, engine: Engine, load: Load) -> Items:
    """A forward pass through the engine that keeps nothing."""
    return steady(sizes, engine) | {
        "gathered weights": _gathered(sizes, engine),
        "activations": engine.width * load.tokens * (4 * sizes.hidden + 2 * sizes.wide),
    }


def importance(sizes: Sizes, engine: Engine, load: Load) -> Items:
    """A forward and backward pass through the engine, to gates of heads and ffn neurons."""
    return steady(sizes, engine) | {
        "gathered weights": _gathered(sizes, engine),
        "activations": _kept(sizes, engine, load, load.importance, load.gated * load.length),
        "gates of samples": 2 * FLOAT * load.gated * sizes.layers * sizes.wide,
    }


def exporting(sizes: Sizes, engine: Engine, load: Load) -> tuple[Items, Items]:
    """On device and host while the main rank writes one block after another, whole and cut.

    It holds what goes into one file; in lower precision another of uncut weights.
    """
    gathered = engine.width * sizes.largest if engine.zero == 3 and engine.ranks > 1 else 0
    files = 1 if engine.width == FLOAT else 2
    block = FLOAT * max(sizes.block, sizes.module)
    return steady(sizes, engine) | {"gathered weights": gathered}, {
        "files of weights, and a block": files * min(SHARD_BYTES + block, FLOAT * sizes.finished),
        "the block that is cut": block if load.cuts else 0,
    }


def parity(sizes: Sizes, load: Load) -> Items:
    """A model from its files, block by block, on the first dev samples; the training is over."""
    hidden = 2 * FLOAT * load.compared * load.length * (sizes.hidden + sizes.wide)
    outside = max(0, sizes.finished - sizes.layers * sizes.block)
    return {"weights": FLOAT * (outside + sizes.block), "hidden states": hidden}


def evaluating(sizes: Sizes, engine: Engine, load: Load) -> Items:
    """Scoring of a finished model, in float32; whole on each rank below ZeRO 3."""
    share = sizes.padded(engine.ranks) - sizes.learned // engine.ranks
    share += min(_fetched(sizes, engine), 2 * sizes.finished)
    return {
        "weights": FLOAT * (share if engine.zero == 3 else sizes.finished),
        "activations": FLOAT * load.tokens * (4 * sizes.hidden + 2 * sizes.wide),
    }


def timing(timed: Mapping[str, Sizes], length: int) -> Items:
    """The models whole, in float32, and the largest batch that is timed, on the main rank."""
    samples = max(latency.BATCHES)
    widest = max(4 * one.hidden + 2 * one.wide for one in timed.values())
    return {
        " and ".join(timed): FLOAT * sum(one.finished for one in timed.values()),
        "activations": FLOAT * samples * length * widest,
    }


def checkpoints(sizes: Sizes, keep: int) -> int:
    """Bytes on the disk of the kept checkpoints of a training and the one that is being written."""
    return (FLOAT + MOMENTS) * sizes.parameters * (keep + 1)


def arrays(load: Load, samples: int) -> int:
    """Bytes on the host of scores of so many samples, log-probabilities and what they are made of."""
    return 2 * 8 * samples * load.classes


def offloaded(items: Items, engine: Engine, sizes: Sizes) -> tuple[Items, Items]:
    """Device and host, with what the configuration keeps on the host moved there.

    The host's Adam has float32 gradients of its own. ZeRO 1 and 2 send a copy of the updated weights
    back; ZeRO 2 sends each sum of gradients to the host at once.
    """
    device, host = dict(items), Items()
    names: list[str] = []
    if engine.states_on_host:
        share = _share(sizes, engine)
        names = ["master weights", "states of Adam", "temporaries of Adam"]
        if "states of Adam" in items or engine.zero == 3:  # else the engine is being built
            host["gradients of the host's Adam"] = FLOAT * share
        device.pop("gradients in float32", None)
        if engine.zero == 3:
            names.append("gradients")
        else:
            host["copy of updated weights"] = engine.width * share
            host["buffers of a gradient"] = 2 * FLOAT * sizes.largest
        if engine.zero == 2:
            device.pop("gradients", None)
    if engine.weights_on_host and engine.zero == 3:
        names.append("weights")
    for name in names:
        if name in device:
            host[name] = device.pop(name)
    return device, host


def needs(name: str, sizes: Sizes, engine: Engine, load: Load, parts: tuple[str, ...]) -> list[Need]:
    """What the parts of a stage need: of load, train, score, importance, export and parity.

    A rank has the scores of its own samples of train.
    """
    scores = {"scores": arrays(load, -(-load.train // engine.ranks))}
    best = {"weights of the best epoch": FLOAT * _share(sizes, engine)} if load.best else {}
    copied = (FLOAT + MOMENTS) * sizes.parameters // engine.ranks if load.saved else 0
    exported, written = exporting(sizes, engine, load)

    def split(items: Items, beside: Items) -> tuple[Items, Items]:
        device, host = offloaded(items, engine, sizes)
        return device, host | beside

    every = {
        "load": split(loading(sizes, engine), {}),
        "importance": split(importance(sizes, engine, load), {}),
        "train": split(training(sizes, engine, load), {"copy for a checkpoint": copied} | best),
        "score": split(scoring(sizes, engine, load), scores),
        "export": split(exported, written | best),
        "parity": (parity(sizes, load), {}),  # without an engine
    }
    return [Need(f"{name}: {part}", *every[part]) for part in parts]
