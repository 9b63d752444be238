"""Bones: a light gate asks whether bone is in the picture, a detector looks for fractures."""
