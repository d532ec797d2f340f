"""GatedLora: a low-rank branch that is added to the listed rows of a linear's output and to no others."""
