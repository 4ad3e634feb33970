"""replica.toml, the document that says which files are documents: taken in first, for the others go by it."""

from replica import filetext, folder
from replica.clone import Clone
from replica.errors import ConfigError
from replica.files.bases import Bases
from replica.files.holds import Holds
from replica.files.report import Report
from replica.files.saves import Saves
from replica.places import CONFIG


class Rules:
    """The replica.toml of one clone."""

    def __init__(self, clone: Clone, bases: Bases, holds: Holds, saves: Saves):
        self.clone, self.store, self.root = clone, clone.store, clone.root
        self.bases, self.holds, self.saves = bases, holds, saves
        self._rules: str | None = None  # replica.toml at the last look at the whole folder

    def take(self, report: Report, force: set[str]) -> None:
        """Take in our own replica.toml if it is valid, then follow the document, whoever changed it."""
        from replica import config

        file = self.root / CONFIG
        row = self.bases.traces([CONFIG]).get(CONFIG)
        if file.is_file() and not file.is_symlink():
            try:
                data = file.read_bytes()
                config.load(filetext.decode(data).text)
            except (ConfigError, ValueError) as error:
                report.skipped[CONFIG] = str(error)
            except OSError as error:
                report.skipped[CONFIG] = f"cannot be read: {error.strerror}"
            else:
                if row is None and self.clone.documents.find(CONFIG, "latest").alive:
                    self._give_way(data, report)
                else:
                    self.saves.visit(CONFIG, file, row, False, CONFIG in force, report)
        self.clone.follow_config()
        self._rules = self.store.meta("config")

    def _give_way(self, data: bytes, report: Report) -> None:
        """A newcomer's replica.toml must not change everybody's rules: the workspace's takes its place, it is kept."""
        text = self.clone.text(CONFIG)
        if filetext.canonical(filetext.decode(data).text) != text:
            self.holds.set_aside(CONFIG, data)
            report.replaced = CONFIG
        stamp = folder.write(self.root, CONFIG, text.encode())
        self.bases.remember(CONFIG, "latest", text.encode(), text, stamp)

    def have_changed(self) -> bool:
        """Whether replica.toml is another than at the last look at the folder: other documents, policies, levels."""
        return self.store.meta("config") != self._rules
