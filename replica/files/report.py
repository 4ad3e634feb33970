"""What one run of the bridge did, to tell a person and to know whether to look again."""

from dataclasses import dataclass, field


@dataclass
class Report:
    """What one run did, by document path."""

    taken: list[str] = field(default_factory=list)  # file -> document
    written: list[str] = field(default_factory=list)  # document -> file
    deleted: list[str] = field(default_factory=list)  # a file went, and with it the document
    removed: list[str] = field(default_factory=list)  # a document went, and with it the file
    held: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    replaced: str = ""  # a newcomer's replica.toml that gave way; it is kept under .replica/rejected/
    look_again: bool = False  # something is to be believed at a second look only

    @property
    def quiet(self) -> bool:
        return not (self.taken or self.written or self.deleted or self.removed)
