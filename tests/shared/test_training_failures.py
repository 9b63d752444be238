"""What is told to whoever stops a training."""

import pytest

from shared.cli import Voice
from shared.training_failures import shown


@pytest.mark.parametrize("kept", [True, False])
def test_who_stops_a_training_is_told_how_it_goes_on(kept, tmp_path, capsys):
    if kept:
        (tmp_path / "last.ckpt").touch()
    with pytest.raises(KeyboardInterrupt), shown(Voice(), "spine", tmp_path):
        raise KeyboardInterrupt
    told = " ".join(capsys.readouterr().out.split())
    assert (f"spine train --resume {tmp_path}" in told) == kept
