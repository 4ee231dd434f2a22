import torch
from diffusers.training_utils import EMAModel

from biflow.training.average import Average


def test_the_average_is_that_of_diffusers_to_the_bit():
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(7)), torch.nn.Parameter(torch.randn(3, 2))]
    ours, theirs = Average(parameters, 0.6), EMAModel(parameters, decay=0.6, foreach=True)
    for _ in range(12):
        with torch.no_grad():
            for parameter in parameters:
                parameter += torch.randn_like(parameter)
        ours.step(parameters)
        theirs.step(parameters)
    assert all(map(torch.equal, ours.shadow, theirs.shadow_params))


def test_averages_are_applied_for_a_block():
    parameter = torch.nn.Parameter(torch.zeros(2))
    average = Average([parameter], 0.5)
    with torch.no_grad():
        parameter += 1
    with average.applied([parameter]):
        assert parameter.tolist() == [0, 0]
    assert parameter.tolist() == [1, 1]
