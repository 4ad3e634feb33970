"""`replica mcp`: the memory as tools of an agent."""

from typing import Annotated

import typer

from cli.common import Dir, opened, publish, root_of


def mcp(
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer only the tools that change nothing.")] = False,
    folder: Dir = None,
) -> None:
    """Serve this clone's memory to an agent: a server of the Model Context Protocol on stdin and stdout.

    Agents start it by themselves. It ends with its stdin, or by SIGTERM.

    Example: replica mcp --dir ~/memory
    """
    from cli.main import VERSION
    from replica.agents.toolbox import Desk
    from transport import control
    from transport.mcp import serve

    root = root_of(folder)
    with opened(root):
        pass  # what is wrong with the clone is said at once

    def node() -> dict | None:
        try:
            return control.ask(root, "status", timeout=5.0)
        except control.NodeError:
            return {}  # it runs and does not answer

    serve(Desk(lambda: opened(root), publish, node, read_only), VERSION)
