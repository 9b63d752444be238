"""When a visitor leaves, what they brought is deleted; while a page is open it is not."""

import time

import nibabel as nib
import numpy as np
from viewer_server import viewer

LEAVE_S = 2.0


def test_files_go_with_the_visitor(chromium, tmp_path):
    scan = tmp_path / "scan.nii"
    nib.save(nib.Nifti1Image(np.zeros((20, 20, 20), np.int16), np.eye(4)), scan)
    with viewer(tmp_path, SKIAGRAM_VIEWER_LEAVE_MINUTES=str(LEAVE_S / 60)) as (address, _):
        context = chromium.new_context()
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        page.get_by_test_id("stFileUploader").first.locator("input").set_input_files(scan)
        page.locator('.volume-view[data-state="ready"]').wait_for()
        fine = list(tmp_path.glob("skiagram-viewer-*/*/*/fine.f16"))
        assert len(fine) == 1
        time.sleep(LEAVE_S + 6)  # longer than a visitor who left is waited for, and a sweep
        assert fine[0].exists()
        context.close()
        end = time.monotonic() + 60
        while fine[0].exists():
            assert time.monotonic() < end, "the visitor left, their scan did not"
            time.sleep(0.2)
    assert not list(tmp_path.glob("skiagram-viewer-*"))  # and with the server goes everything
