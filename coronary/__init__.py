"""Coronary arteries in CT angiography."""
