"""Which models the plan's command takes: those of train.py."""

from compress.models import encoders
from compress.plan import __main__ as command


def test_models_are_named_as_for_train(monkeypatch):
    """The encoder of the package, and a revision of the hub's."""
    own = command.shape_of("synthetic-encoder", "model", 2)
    assert own.config.num_labels == 2
    asked = []

    def read(name, revision, **_):
        asked.append((name, revision))
        return own.config

    monkeypatch.setattr(command.AutoConfig, "from_pretrained", read)
    monkeypatch.setattr(encoders, "of_config", lambda config: config)
    for name in ("an/encoder@v2", "an/encoder"):
        assert command.shape_of(name, "model", 2) is own.config
    assert asked == [("an/encoder", "v2"), ("an/encoder", "main")]
