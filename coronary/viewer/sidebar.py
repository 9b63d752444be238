"""The sidebar: scan, model, segmentation, comparison, downloads."""

from __future__ import annotations

import html
import secrets
from pathlib import Path
from typing import Any

import streamlit as st

from coronary.batch import DISCLAIMER
from coronary.viewer.jobs import Job, jobs
from coronary.viewer.models import PRECISIONS, Choice, card, models
from coronary.viewer.results import compare_with, segment
from coronary.viewer.routes import DOWNLOADS
from coronary.viewer.sample import sample_of
from coronary.viewer.scans import SUFFIXES, blocks, open_path, open_upload, save_private, suffix_of
from coronary.viewer.store import Case
from coronary.viewer.visit import CASE, Visit
from shared.errors import InputError, SkiagramError

ORIGINS = {"uploaded": "uploaded", "path": "by path", "shipped": "shipped"}
NAMES = {
    "mask.nii.gz": "Mask", "mask.seg.dcm": "DICOM SEG", "arteries.stl": "STL", "tree.json": "Tree JSON",
    "tree.csv": "Tree CSV", "preview.png": "Preview", "report.json": "Report",
}  # fmt: skip


def show(visit: Visit) -> None:
    """Draw the sidebar."""
    with st.sidebar:
        st.html('<div class="brand"><b>Skiagram</b> <span>coronary viewer</span></div>')
        _scan(visit)
        _model(visit)
        if visit.case is not None:
            _segmentation(visit)
            if visit.result is not None:
                _downloads(visit)
                _comparison(visit, visit.case)
        st.html(f'<div class="fineprint">{DISCLAIMER}</div>')


def _scan(visit: Visit) -> None:
    st.html('<h4 class="section">Scan</h4>')
    if visit.case is not None:
        _open_scan(visit, visit.case)
    with st.container() if visit.case is None else st.expander("Open another scan"):
        file = _uploader("scan", f"Upload a scan: {', '.join(SUFFIXES)}", visit.limits.max_upload_mb)
        if file is not None:
            with st.spinner("Reading the scan"):
                visit.open(lambda: _taken(file, lambda: open_upload(visit.visitor, file, file.name, visit.limits)))
        if visit.paths_allowed:
            typed = st.text_input(
                "Path on this server", key="scan_path", placeholder="/data/scan.nii.gz or a DICOM folder"
            )
            if typed and typed != st.session_state.get("opened_path"):
                st.session_state.opened_path = typed
                with st.spinner("Reading the scan"):
                    visit.open(lambda: open_path(visit.visitor, typed, visit.limits))
    if problem := st.session_state.get("problem"):
        st.error(problem)


def _open_scan(visit: Visit, case: Case) -> None:
    info = case.info
    dims = " x ".join(str(n) for n in info["volume"]["dims"])
    spacing = " x ".join(f"{mm:.2f}" for mm in info["spacing_mm"])
    name = html.escape(info["name"])
    st.html(f'<div class="facts"><b title="{name}">{name}</b><span>{dims} voxels</span><span>{spacing} mm</span></div>')
    for note in info["notes"]:
        st.caption(note)
    if st.button("Close this scan", key="close", width="stretch"):
        st.query_params.pop(CASE, None)
        st.session_state.pop("problem", None)
        st.rerun()


def _uploader(name: str, label: str, most_mb: int) -> Any:
    """An uploader that forgets its file once ``_taken``: its key changes, and Streamlit's copy is dropped.

    It takes any kind of file: what cannot be used is refused in our words, where Streamlit would only colour it.
    """
    turn = st.session_state.setdefault(f"{name}_turn", 0)
    file = st.file_uploader(label, key=f"{name}-{turn}", max_upload_size=most_mb)
    if file is not None:
        st.session_state[f"{name}_turn"] = turn + 1
    return file


def _taken(file: Any, take: Any) -> Any:
    """Use an uploaded file and drop Streamlit's copy in memory, whatever comes of it."""
    from streamlit.runtime import get_instance
    from streamlit.runtime.scriptrunner import get_script_run_ctx

    try:
        return take()
    finally:
        context = get_script_run_ctx()
        if context is not None:
            keeper: Any = get_instance().uploaded_file_mgr  # the one in memory, Streamlit's only one
            keeper.remove_file(context.session_id, file.file_id)
        file.close()


def _model(visit: Visit) -> None:
    st.html('<h4 class="section">Model</h4>')
    choice, predictor = visit.choice, visit.predictor
    assert choice is not None
    origin = ORIGINS.get(choice.origin, choice.origin)
    name = visit.model_said().get("name") if choice.origin == "uploaded" else choice.path and choice.path.name
    if predictor is None:
        st.error(f"{name or 'The shipped model'} ({origin}): {visit.model_problem}")
    else:
        shown = html.escape(name or predictor.session.path.name)
        precision = PRECISIONS.get(predictor.precision, predictor.precision)
        facts = html.escape(f"{origin} · {precision} · {predictor.engine} on {predictor.device}")
        st.html(f'<div class="facts" data-model="{choice.origin}"><b>{shown}</b><span>{facts}</span></div>')
        with st.expander("Model card"):
            rows = {**card(predictor), "File": name or predictor.session.path.name}
            cells = "".join(f"<dt>{html.escape(term)}</dt><dd>{html.escape(text)}</dd>" for term, text in rows.items())
            st.html(f'<dl class="card">{cells}</dl>')
    with st.expander("Use another model", expanded=predictor is None):
        _other_model(visit)


def _other_model(visit: Visit) -> None:
    file = _uploader("model", "Upload a model: .onnx", visit.limits.max_model_mb)
    if file is not None:
        try:
            _taken(file, lambda: _keep_model(visit, file))
            st.session_state.pop("model_refused", None)
        except SkiagramError as error:
            st.session_state.model_refused = f"{file.name}: {error}"
        st.rerun()
    if refused := st.session_state.get("model_refused"):
        st.error(refused)
    said = visit.model_said()
    if said.get("file") and st.button("Forget the uploaded model", width="stretch"):
        visit.remember_model(file="", name="")
        st.rerun()
    if visit.paths_allowed:
        typed = st.text_input("Model path on this server", said.get("typed", ""), placeholder="/models/coronary.onnx")
        if typed != said.get("typed", ""):
            visit.remember_model(typed=typed)
            st.rerun()


def _keep_model(visit: Visit, file: Any) -> None:
    """Take an uploaded model if it is one.

    Raises:
        SetupError: why it is none.
    """
    path = visit.visitor.folder / f"model-{secrets.token_hex(8)}.onnx"
    save_private(blocks(file), path)
    try:
        models(visit.limits.device).load(Choice(path, "uploaded"))
    except SkiagramError:
        path.unlink()
        raise
    visit.remember_model(file=path.name, name=file.name)


def _segmentation(visit: Visit) -> None:
    folder, case, predictor = visit.result_folder, visit.case, visit.predictor
    if folder is None or case is None or predictor is None:
        return
    st.html('<h4 class="section">Arteries</h4>')
    job = jobs().find(str(folder))
    if job is not None and not job.over:
        _progress(job)
        return
    if job is not None:
        jobs().forget(job)
        if job.state == "failed":
            st.error(f"{case.info['name']}: {job.error}")
    result = visit.result
    if result is None:
        if st.button("Find the arteries", type="primary", width="stretch", key="segment"):
            jobs().submit(str(folder), visit.visitor.folder.name, lambda own: segment(case, predictor, own))
            st.rerun()
        return
    used = html.escape(f"{result['engine']} on {result['device']}, {PRECISIONS.get(result['precision'], '')}")
    times = f"<b>{result['seconds']:.1f} s</b><span>network {result['network_seconds']:.1f} s</span>"
    st.html(f'<div class="facts">{times}<span>{used}</span></div>')
    for finding in result["findings"]:
        st.caption(finding)


@st.fragment(run_every=0.7)
def _progress(job: Job) -> None:
    """Tell how far a scan is, until it is over."""
    if job.over:
        st.rerun()
    if job.state == "waiting":
        ahead = max(jobs().ahead_of(job), 1)
        st.info(f"Waits in line: {ahead} {'scan' if ahead == 1 else 'scans'} before this one")
    else:
        left = job.seconds_left()
        when = "" if left is None else f" · about {_seconds(left)} left"
        st.progress(job.share, f"{job.doing or 'Begins'}{when}")
    # A callback: what a button returns is lost where the next rerun overtakes this one.
    st.button("Cancel", width="stretch", key="cancel", on_click=job.cancel)


def _seconds(left: float) -> str:
    return f"{max(round(left), 1)} s" if left < 90 else f"{round(left / 60)} min"


def _downloads(visit: Visit) -> None:
    folder = visit.result_folder
    assert folder is not None
    links = "".join(
        f'<a href="{visit.case_url}/download/{folder.name}/{file}" download data-file="{file}">{NAMES[file]}</a>'
        for file in DOWNLOADS
        if (folder / file).is_file()
    )
    st.html(f'<h4 class="section">Downloads</h4><div class="links">{links}</div>')


def _comparison(visit: Visit, case: Case) -> None:
    folder = visit.result_folder
    assert folder is not None
    with st.expander("Compare with a label file"):
        if problem := st.session_state.get("compare_problem"):
            st.error(problem)
        file = _uploader("label", "Upload a label on the scan's grid", visit.limits.max_upload_mb)
        if file is not None:
            with st.spinner("Comparing"):
                _compare(lambda: _taken(file, lambda: _compare_upload(case, folder, file)))
        truth = sample_of(case)
        if truth is not None and st.button("Compare with the phantom's truth", width="stretch"):
            with st.spinner("Comparing"):
                _compare(lambda: compare_with(case, folder, truth, "the phantom's truth", "0" * 16))


def _compare(run: Any) -> None:
    try:
        run()
        st.session_state.pop("compare_problem", None)
        st.session_state.shows = "Agreement"
    except SkiagramError as error:
        st.session_state.compare_problem = str(error)
    st.rerun()


def _compare_upload(case: Case, result: Path, file: Any) -> None:
    suffix = suffix_of(file.name)
    if suffix in (None, ".zip"):
        raise InputError(file.name, "is of a kind that is not read", "give .nii, .nii.gz, .nrrd or .mha")
    path = case.folder / f"label-{secrets.token_hex(8)}{suffix}"
    try:
        digest = save_private(blocks(file), path)
        compare_with(case, result, path, file.name, digest)
    finally:
        path.unlink(missing_ok=True)
