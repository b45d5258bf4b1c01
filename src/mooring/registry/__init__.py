"""MLflow's registry: versions of models, their aliases and tags, and the baselines that lie beside them.

Nobody else in Mooring talks to it. MLflow itself is imported only once it is asked.
"""
