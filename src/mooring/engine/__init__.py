"""Where profiles are computed: in this process, or on Spark."""
