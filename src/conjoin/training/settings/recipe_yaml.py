"""Parse the YAML of a recipe: names and plain values; aliases, tags and repeated names are errors."""

from typing import Any, cast

from conjoin.errors import MissingBackend, shown
from conjoin.limits import RECIPE_DEPTH, RECIPE_LETTERS

try:
    import yaml
except ImportError:
    raise MissingBackend("Recipes need pyyaml: pip install 'conjoin[train]'") from None


class _Refused(yaml.YAMLError):
    """Raised for YAML that is valid but not allowed in a recipe."""


class _Loader(yaml.SafeLoader):
    """Loads plain values, nested at most RECIPE_DEPTH deep, without aliases and tags."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases, tags, long values and deep nesting, by which a small file could use much memory."""
        event: Any = cast(Any, self).peek_event()
        place = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(f"{place}: an alias (*{shown(event.anchor)[1:-1]}); write the value where it is wanted")
        if getattr(event, "tag", None) is not None:
            raise _Refused(f"{place}: a tag ({shown(event.tag)}); recipes have plain values only")
        if len(getattr(event, "value", "")) > RECIPE_LETTERS:
            raise _Refused(f"{place}: a value of more than {RECIPE_LETTERS} letters")
        if self.depth >= RECIPE_DEPTH:
            raise _Refused(f"{place}: more than {RECIPE_DEPTH} lists and mappings inside one another")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a name that occurs twice, since PyYAML silently keeps the last value."""
        names: set[Any] = set()
        for key, _ in node.value:
            name = key.value if isinstance(key.value, str) else None
            if name is not None and name in names:
                raise _Refused(f"line {key.start_mark.line + 1}: {shown(name)} is there twice")
            names.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """Parse the YAML of a recipe.

    Raises:
        ValueError: the text is not YAML, or has something that a recipe may not have.
    """
    loader: Any = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except (ValueError, ArithmeticError, AttributeError, LookupError, TypeError, RecursionError) as error:
        # PyYAML's constructors fail on values that only look like a number or a date: 2001-99-99, 0b_.
        line = loader.line + 1 if loader is not None else 1
        raise ValueError(f"a value, before line {line + 1}, that only looks like a number or a date: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()
