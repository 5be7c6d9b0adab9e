"""Adapters to training frameworks, each a module of its own that imports its framework when it is used."""
