"""The verb `export-torch`: an attack network for people who have torch and no Chainer."""

from pathlib import Path

import click

from study.errors import UsageError

__all__ = ["export_torch"]

_folder = click.Path(file_okay=False, path_type=Path)


@click.command("export-torch")
@click.argument("package", type=_folder)
@click.argument("folder", type=_folder)
def export_torch(package: Path, folder: Path) -> None:
    """Write the attack network of PACKAGE to FOLDER as a torch module that needs torch alone.

    \b
    import torch
    network = torch.hub.load("FOLDER", "attack_network", source="local")
    adversarial = network(images, 8)

    Images are (N, C, H, W) in [0, 1], of any size; the budget is in units of 1/255.
    """
    try:
        from models.pytorch import export
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UsageError(
            "PyTorch is not installed, which export-torch needs: run `pip install 'jigsaw[torch]'`"
        ) from error
    click.echo(export.export_torch(package, folder))
