import numpy as np

from selfplay.selection.lengths import too_long_for_training


def test_the_longer_response_decides_and_the_limit_itself_fits() -> None:
    prompt, chosen, rejected = np.array([4, 4, 4, 5]), np.array([6, 7, 1, 5]), np.array([1, 1, 7, 5])
    assert too_long_for_training(prompt, chosen, rejected, max_length=10).tolist() == [False, True, True, False]
