"""The model card: what the compressed model is, how to load it, what was measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from compress import artefacts
from compress.configuration.config import Config
from compress.models import compressed, encoders
from compress.reporting import report

PAGE = """\
---
library_name: transformers
pipeline_tag: text-classification
tags: [robust-compression]
---
# {{ task }}: {{ base }}, compressed ({{ compression }}, {{ mitigation }})

{{ "{:,}".format(params) }} parameters. Trained with robust compression on DeepSpeed (Du et al. 2023).

## Load

```python
from compress import load_compressed
model = load_compressed("path/to/this/directory")
```

{% if plain %}
Plain `AutoModelForSequenceClassification.from_pretrained` loads it too.
{% else %}
It has lost attention heads, which `from_pretrained` does not know of; `load_compressed` does.
{% endif %}

Its tokenizer lies beside it. Classify pairs from the command line:
`python -m compress.predict DIRECTORY --help`.
{% if table %}

## Measured

```text
{{ table }}
```
{% for note in notes %}

* {{ note }}
{% endfor %}
{% endif %}"""


def write(folder: Path, config: Config, params: int, metrics: Mapping[str, Any] | None = None) -> None:
    """Write README.md of a model directory.

    params: parameters of the exported model; metrics: the run's, once it has been evaluated.
    """
    values = {
        "task": config.robust.task.name,
        "base": Path(config.robust.student.model or config.robust.model).name,
        "compression": config.compression_label,
        "mitigation": config.mitigation_label,
        "params": params,
        "plain": compressed.sizes(encoders.load_config(folder)) is None,
        "table": report.summary_table(metrics) if metrics else "",
        "notes": metrics["notes"] if metrics else [],
    }
    page = jinja2.Template(PAGE, trim_blocks=True, undefined=jinja2.StrictUndefined).render(values)
    with artefacts.replacing(folder / "README.md") as temporary:
        temporary.write_text(page, encoding="utf-8")
