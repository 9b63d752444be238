"""Readers of the layouts that radiograph data sets come in, one file each; ``bones.cases`` chooses among them."""
