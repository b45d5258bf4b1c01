"""MLflow's registry: versions of models, their aliases and tags, and the baselines that lie beside them."""
