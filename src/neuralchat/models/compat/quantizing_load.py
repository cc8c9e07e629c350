"""from_pretrained that hands each weight, as it is read from its file, to a function that stores it in another way.

transformers' interface for quantizers (HfQuantizer) is public, the loading operations that it wants are not; and it
marks a model as quantized by a library, which then refuses to be used as other models are. Ours is not, so the marks
are taken off again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

METHOD = "neuralchat"


@register_quantization_config(METHOD)
class QuantizingLoad(QuantizationConfigMixin):
    """What from_pretrained takes as its quantization_config.

    `choose`: (model without weights) -> how layers are to be stored whose weight is stored in another way, by path.
    `store`: (layer, its weight [O, I], how it is to be stored) -> the parameter that the layer has from there on.
    """

    def __init__(
        self,
        choose: Callable[[Any], Mapping[str, Any]],
        store: Callable[[nn.Module, Tensor, Any], nn.Parameter],
    ) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]
        self.choose = choose
        self.store = store
        self.chosen: Mapping[str, Any] = {}


@register_quantizer(METHOD)
class QuantizerOfLoad(HfQuantizer):
    """Weights are read one after the other, which transformers does where a model is quantized while it loads."""

    quantization_config: QuantizingLoad

    def _process_model_before_weight_loading(self, model: Any, **_kwargs: Any) -> None:
        chosen = self.quantization_config.choose(model)
        self.quantization_config.chosen = {f"{path}.weight": way for path, way in chosen.items()}

    def param_needs_quantization(self, model: Any, param_name: str, **_kwargs: Any) -> bool:  # noqa: ARG002
        return param_name in self.quantization_config.chosen

    def get_quantize_ops(self) -> ConversionOps:
        return StoreWeight(self.quantization_config)

    def _process_model_after_weight_loading(self, model: Any, **_kwargs: Any) -> Any:
        conversions = getattr(model, "_weight_conversions", None)
        self.remove_quantization_config(model)
        model._weight_conversions = conversions
        for module in model.modules():
            if hasattr(module, "config"):
                module.config.__dict__.pop("_is_quantized", None)
        return model

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return True


class StoreWeight(ConversionOps):
    def __init__(self, config: QuantizingLoad) -> None:
        self.config = config

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],  # noqa: ARG002
        target_patterns: list[str],  # noqa: ARG002
        **kwargs: Any,
    ) -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {}
        for name, value in input_dict.items():
            weight = value[0] if isinstance(value, list) else value
            layer = kwargs["model"].get_submodule(name.rpartition(".")[0])
            found[name] = [self.config.store(layer, weight, self.config.chosen[name])]
        return found
