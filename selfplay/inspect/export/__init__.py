"""`export`: a run's rounds as a dataset and its policies as models that others can load, without what is only of this machine."""
