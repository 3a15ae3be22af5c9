import cv2
import numpy as np
import pytest

from semiscope.errors import DataError
from semiscope.inspection.bench import BenchSettings, bench


def test_bench_counts_tiles_and_leaves_bad_files_out(tmp_path, blob_model):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((64, 64), 30 * i, np.uint8))
    cv2.imwrite(str(folder / "large.png"), np.zeros((64, 112), np.uint8))
    (folder / "bad.png").write_bytes(b"no image")
    settings = BenchSettings(model=str(blob_model), batch=2, threads=2, repetitions=2)
    speed = bench([folder], settings)
    # 112 columns are two tiles of 64 that share 16
    assert (speed.images, speed.inputs, speed.threads) == (4, 5, 2)
    assert len(speed.engine) == len(speed.end_to_end) == 2
    assert 0 < speed.ratio < 1
    assert speed.peak_memory_mb is None or 30 < speed.peak_memory_mb < 1000


def test_bench_without_images(tmp_path, blob_model):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="no image"):
        bench([tmp_path / "bad.png"], BenchSettings(model=str(blob_model)))
