"""The predictor: a `kserve.Model` over a bundle. The only package that imports kserve."""
