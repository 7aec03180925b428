"""What looks at every call into anima while the tests run: shapes and types as annotated.

`pyproject.toml` names it to jaxtyping's plug-in. A whole number passes for a real one, as in
Python's own numeric tower (PEP 484).
"""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
