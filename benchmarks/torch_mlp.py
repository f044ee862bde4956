"""The ReLU network of the benchmarks in torch, from the same parameters."""


def torch_mlp(params):
    """Returns a torch.nn.Sequential of linear layers with ReLU between.

    Args:
      params: (kernel [inputs outputs], bias [outputs]) of each layer, numpy or JAX arrays.
    """
    import numpy as np
    import torch

    layers = []
    for kernel, bias in params:
        layer = torch.nn.Linear(*kernel.shape)
        layer.weight.data = torch.tensor(np.array(kernel).T.copy())
        layer.bias.data = torch.tensor(np.array(bias))
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])
