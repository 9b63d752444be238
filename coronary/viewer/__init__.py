"""The coronary viewer: a Streamlit page on which a scan is looked at, segmented and measured."""
