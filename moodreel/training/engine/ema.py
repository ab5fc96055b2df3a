"""Exponential moving average of model weights (Polyak & Juditsky 1992)."""

from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn


def averaged_model(network: nn.Module, decay: float, *, warmup: bool) -> AveragedModel:
    """Return a moving average of a network, which often generalizes better than the last weights.

    Its `module` is a copy in eval mode, without gradients, which `update_parameters` moves towards the network.

    Args:
        network: The network to average.
        decay: Weight of the average at each update but the first, which copies the network; 0 to 1.
        warmup: Let the decay rise from 0 to `decay`, so that the first weights are soon forgotten. Without it the
            average stays near them, which suits pretrained weights.
    """

    def update(averages: PARAM_LIST, currents: PARAM_LIST, updates: Tensor | int) -> None:
        count = int(updates)
        now = min(decay, (1 + count) / (10 + count)) if warmup else decay
        # Counters, such as those of batch normalization, are copied.
        get_ema_multi_avg_fn(now if averages[0].is_floating_point() else 0.0)(averages, currents, updates)

    averaged = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    return averaged.requires_grad_(False).eval()
