"""Data sets that the four codebases lack, and checks that work for any data set."""
