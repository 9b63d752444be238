"""The home page: what this is, how to use it, and a sample scan one click away."""

from __future__ import annotations

import streamlit as st

from coronary.viewer.routes import HOME_PICTURE
from coronary.viewer.sample import sample_scan
from coronary.viewer.scans import open_path
from coronary.viewer.visit import Visit
from shared.niivue.component import preload

TITLE = """
<h1>Coronary arteries in CT angiography</h1>
<p class="lead">Open a contrast-enhanced cardiac CT, look at it in three planes, and have its coronary tree found and
measured on this machine.</p>
"""
STEPS = """
<ol class="steps">
<li><b>Open a scan</b> at the left: NIfTI, NRRD, MHA, or a DICOM series as a zip. The picture is there before anything
is computed.</li>
<li><b>Find the arteries.</b> Left (LCA) and right (RCA) are painted in their own colours, in the planes and in 3D.</li>
<li><b>Read the tree.</b> Click an artery or a branch: the crosshair goes there, and its diameter and straightened
course appear.</li>
<li><b>Take it along:</b> mask, surface, tree, picture and report; DICOM SEG where DICOM came in.</li>
</ol>
<p class="notes">Scans stay on this server, in a folder of your own, and are deleted when you leave. Nothing is sent
anywhere else.</p>
"""
PICTURE = f"""
<figure><img src="{HOME_PICTURE}" alt="A scan in three planes and 3D, its branches, and one of them laid out straight">
<figcaption>The sample scan, a phantom, with the arteries that were found in it.</figcaption></figure>
"""


def show_home(visit: Visit) -> None:
    """Draw the home page."""
    with st.container(key="home"):
        words, picture = st.columns([5, 7], gap="large", vertical_alignment="center")
    with words:
        st.html(TITLE)
        if st.button("Open the sample scan", type="primary", key="sample"):
            with st.spinner("Making the sample, a phantom: a few seconds"):
                visit.open(lambda: open_path(visit.visitor, str(sample_scan()), visit.limits, name="sample.nii.gz"))
        st.html(STEPS)
    with picture:
        st.html(PICTURE)
    preload()
