"""The `jigsaw` command, composed: verbs of studies, of attacks, of dashboards."""

import sys
from importlib import import_module

import click

from study.commands import jigsaw
from study.demo import demo
from study.launch import launch

__all__ = ["main"]

# Verbs that need more than studies, by the module that defines them: imported when they are called.
_ELSEWHERE = {
    "attack": "objectives.contest",
    "control": "study.control",
    "dashboard": "dashboards.commands",
    "doctor": "study.doctor",
    "evaluate": "objectives.scoring",
    "export-torch": "objectives.torch_export",
    "images": "objectives.files",
    "launch": "study.launch_command",
    "package": "objectives.commands",
    "report": "dashboards.commands",
    "status": "study.status",
    "train": "objectives.commands",
}
# What tells `study.provenance` something that `jigsaw environment` shows.
_TELLS = {"environment": ("models.device", "models.kernels")}


class _Composed(click.Group):
    """All verbs; those from elsewhere are imported only when needed, so that the others start fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *_ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _ELSEWHERE:
            verb: click.Command = getattr(
                import_module(_ELSEWHERE[cmd_name]), cmd_name.replace("-", "_")
            )
            return verb
        for module in _TELLS.get(cmd_name, ()):
            import_module(module)
        return super().get_command(ctx, cmd_name)


def main() -> None:
    """Run `jigsaw`."""
    verbs = {**jigsaw.commands, "demo": demo}
    whole = _Composed(
        commands=verbs, callback=jigsaw.callback, params=jigsaw.params, help=jigsaw.help,
        context_settings=jigsaw.context_settings,
    )  # fmt: skip
    launch(sys.argv[1:], whole)


if __name__ == "__main__":
    main()
