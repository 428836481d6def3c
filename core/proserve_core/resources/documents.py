"""YAML text into documents: strict where pyyaml is lenient.

Duplicate keys (pyyaml silently keeps the last), explicit tags and anything that is not YAML are errors with line and
column. Kubernetes reads YAML as JSON, so dates stay strings. Values never appear in these messages: the text may
hold Secrets.
"""

import msgspec
import yaml

from proserve_core.resources.errors import ResourceError

_DATE = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """One decoded document."""

    source: str
    """Where it comes from, as error messages name it: `file.yaml#2`."""
    data: object


class YamlText(msgspec.Struct, frozen=True, kw_only=True):
    """The documents of one text and what is wrong with its YAML."""

    documents: tuple[Document, ...]
    errors: tuple[ResourceError, ...]
    complete: bool
    """False: documents after a syntax error are missing."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that notes duplicate keys and explicit tags, with their place."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.notes: list[tuple[yaml.Mark, str, str]] = []

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        tag = getattr(event, "tag", None)
        if tag is not None and not isinstance(event, yaml.AliasEvent):
            self.notes.append((event.start_mark, f"has the tag {tag!r}", "remove it; tags are not used here"))
            event.tag = None
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: dict[object, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    problem = f"the key {key.value[:60]!r} is there twice"
                    self.notes.append((key.start_mark, problem, "remove one of the two"))
                seen.add(key.value)
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _DATE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(name: str, text: str) -> YamlText:
    """All documents of `text`. `name` (usually the file) begins the source of each."""
    documents: list[Document] = []
    errors: list[ResourceError] = []
    try:
        _read(name, text, documents, errors)
    except yaml.YAMLError as error:
        errors.append(_syntax_error(name, error))
    except RecursionError:
        errors.append(_error(name, "is nested too deeply", "remove levels"))
    except ValueError as error:
        # Scalars that look like a number to pyyaml but are none, e.g. 0x_ or one of 5,000 digits.
        errors.append(_error(f"{name}#{len(documents) + 1}", f"holds a value that can't be read ({error})", "quote it"))
    else:
        if not documents and not errors:
            errors.append(_error(name, "holds no documents", "add resources or leave the file out"))
        return YamlText(documents=tuple(documents), errors=tuple(errors), complete=True)
    return YamlText(documents=tuple(documents), errors=tuple(errors), complete=False)


def _read(name: str, text: str, documents: list[Document], errors: list[ResourceError]) -> None:
    loader = _Loader(text)
    try:
        number = 0
        while loader.check_node():
            number += 1
            source = f"{name}#{number}"
            data = loader.get_data()
            errors += [
                _error(f"{source} (line {mark.line + 1}, column {mark.column + 1})", problem, fix)
                for mark, problem, fix in loader.notes
            ]
            loader.notes.clear()
            if data is not None:
                documents.append(Document(source=source, data=data))
    finally:
        loader.dispose()


def _error(source: str, problem: str, fix: str) -> ResourceError:
    return ResourceError(source=source, path="", problem=problem, fix=fix)


def _syntax_error(name: str, error: yaml.YAMLError) -> ResourceError:
    fix = "correct the YAML there (indentation, quotes, colons)"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        problem = " ".join(filter(None, (error.context, error.problem)))
        place = f"{name} (line {mark.line + 1}, column {mark.column + 1})" if mark else name
        return _error(place, f"is not YAML: {problem}", fix)
    if isinstance(error, yaml.reader.ReaderError):
        return _error(name, f"is not YAML: character {error.position} can't be in a text file", fix)
    return _error(name, "is not YAML", fix)
