"""The `heartwatch` command.

Each area has its sub-app in a module of its own, imported only when it is called, so that `heartwatch --help` is quick.
"""

from __future__ import annotations

from cyclopts import App

from heartwatch.errors import one_sentence

app = App(
    name="heartwatch",
    help="Detect in real time people whose heart rate leaves their personal range while they are at rest.",
)

# Help texts stand here as well: to take them from the functions would import the modules.
_COMMANDS = {
    "demo": (
        "heartwatch.platform.commands:demo",
        "Run the whole pipeline and print what was found; leaves the platform up.",
    ),
    "up": ("heartwatch.platform.commands:up", "Start the platform; what runs already stays as it is."),
    "down": ("heartwatch.platform.commands:down", "Stop the platform; its data stays."),
    "status": (
        "heartwatch.platform.commands:status",
        "Show each part: state, address, health, process, memory, restarts.",
    ),
    "logs": ("heartwatch.platform.commands:logs", "Show the end of a part's log."),
    "kill": ("heartwatch.platform.commands:kill", "Send a signal to a part, to see it restarted."),
    "restart": ("heartwatch.platform.commands:restart", "Stop and start a part."),
    "clean": ("heartwatch.platform.commands:clean", "Stop the platform and remove its data; downloaded packages stay."),
    "inspect": (
        "heartwatch.inspect:inspect",
        "Show what would be read from recordings and tables, what is left out and why.",
    ),
    "ksql": ("heartwatch.ksql.commands:app", "Test KSQL without a broker, or talk to the running engine."),
    "check": (
        "heartwatch.ksql.commands:check",
        "Check the KSQL migrations and the logins without a server: every mistake with its place and remedy.",
    ),
    "web": ("heartwatch.web.commands:web", "Serve the live page: the pipeline, the alerts and the people at a glance."),
    "heartbeat": (
        "heartwatch.produce.commands:heartbeat",
        "Send quiet partitions the events that close their windows, until told to end.",
    ),
    "packages": ("heartwatch.platform.commands:packages", "Download the pinned JVM packages, or lock them again."),
}
for _name, (_target, _help) in _COMMANDS.items():
    app.command(_target, name=_name, help=_help)


def main() -> None:
    """Run the command line; errors that a user can fix are one sentence and exit code 1."""
    with one_sentence("heartwatch"):
        app()


if __name__ == "__main__":
    main()
