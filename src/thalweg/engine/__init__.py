"""How a step is computed: rules become graphs, graphs become kernels; no optimizer is known by name."""
