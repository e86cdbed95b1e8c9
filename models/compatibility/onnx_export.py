"""ONNX from onnx_chainer, which knows the onnx package of 2020."""

import importlib
import sys
import types
import warnings
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from study.errors import UsageError

__all__ = ["export_onnx", "provide_onnx_mapping"]

# onnx_chainer exports these with other coordinates than Chainer computes with.
_WRONG_OPERATORS = frozenset({"Resize", "Upsample"})
_NATIVE_OPSETS = range(7, 12)
_WEIGHTS_NEED_NOT_BE_INPUTS = 4  # IR version


def provide_onnx_mapping() -> None:
    """Newer onnx packages lack `onnx.mapping`, whose two tables onnx_chainer reads.

    Without it onnx_chainer imports silently and then says that ONNX is not installed, so an
    onnx_chainer that was imported too early is forgotten here.
    """
    onnx: Any = importlib.import_module("onnx")
    if hasattr(onnx, "mapping"):
        return
    mapping = types.ModuleType("onnx.mapping")
    vars(mapping).update(_onnx_tables(onnx.helper))
    onnx.mapping = sys.modules["onnx.mapping"] = mapping
    for name in [name for name in sys.modules if name.split(".")[0] == "onnx_chainer"]:
        del sys.modules[name]


def _onnx_tables(helper: Any) -> dict[str, dict[Any, Any]]:
    types_of: dict[Any, int] = {}
    for tensor_type in sorted(helper.get_all_tensor_dtypes()):
        # The types of lower number are NumPy's own; later ones (bfloat16, string) alias them.
        types_of.setdefault(helper.tensor_dtype_to_np_dtype(tensor_type), tensor_type)
    storages = map(helper.tensor_dtype_to_storage_tensor_dtype, types_of.values())
    return {
        "NP_TYPE_TO_TENSOR_TYPE": types_of,
        "STORAGE_TENSOR_TYPE_TO_FIELD": {s: helper.tensor_dtype_to_field(s) for s in storages},
    }


def export_onnx(
    link: Any,
    x: NDArray[Any] | tuple[NDArray[Any], ...],
    path: str | Path,
    opset: int = 11,
) -> None:
    """Write `link`, as it computes in test mode on arrays of x's shape, to an ONNX file.

    The file declares the lowest IR version its opset allows: onnx_chainer declares the newest one,
    which runtimes older than the onnx package refuse.

    Args:
        link: a Chainer link whose parameters are initialised; called with x.
        x: the input, or a tuple of inputs, of any values; their shapes and dtypes are fixed in
            the file, the batch size included.
        path: the file to write.
        opset: version of ONNX's operators, 7 or above; above 11 onnx's own converter takes over,
            as far as it knows the operators.

    Raises:
        UsageError: onnx is not installed, the opset is out of range, or the network holds an
            operation whose export computes something else (`F.resize_images`).
    """
    onnx = _import_onnx()
    newest = onnx.defs.onnx_opset_version()
    if not min(_NATIVE_OPSETS) <= opset <= newest:
        raise UsageError(f"opset is {opset}: allowed are {min(_NATIVE_OPSETS)} to {newest}")
    provide_onnx_mapping()
    onnx_chainer = importlib.import_module("onnx_chainer")
    kernels: Any = importlib.import_module("models.kernels")  # which stands on this package
    # The exporter knows Chainer's own functions only.
    with warnings.catch_warnings(), kernels.using("chainer"):
        # What it warns of is refused below.
        warnings.filterwarnings("ignore", message="`resize_images` is mapped")
        model = onnx_chainer.export(link, x, opset_version=min(opset, max(_NATIVE_OPSETS)))
    _refuse_wrong_operators(model)
    if opset not in _NATIVE_OPSETS:
        model = onnx.version_converter.convert_version(model, opset)
    _lower_ir_version(model, onnx.helper.find_min_ir_version_for(model.opset_import))
    onnx.checker.check_model(model)
    Path(path).write_bytes(model.SerializeToString())


def _import_onnx() -> Any:
    try:
        importlib.import_module("onnx.version_converter")
    except ModuleNotFoundError as error:
        raise UsageError("onnx is not installed: run `pip install 'jigsaw[onnx]'`") from error
    return importlib.import_module("onnx")


def _lower_ir_version(model: Any, version: int) -> None:
    """Declare `version`; from 4 on weights need not be inputs too, which stops constant folding."""
    model.ir_version = version
    if version >= _WEIGHTS_NEED_NOT_BE_INPUTS:
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in weights]
        del model.graph.input[:]
        model.graph.input.extend(inputs)


def _refuse_wrong_operators(model: Any) -> None:
    wrong = sorted({node.op_type for node in model.graph.node} & _WRONG_OPERATORS)
    if wrong:
        raise UsageError(
            f"the network exports as {', '.join(wrong)}, which computes other numbers than "
            "Chainer's F.resize_images: allowed is F.unpooling_2d or a deconvolution instead"
        )
