"""Volumes in the browser, on niivue: files for it (``encode``) and a Streamlit component (``component``)."""
