"""The command line `opsd`: one file per group of commands, thin above Prefect, MLflow and the stages' own functions."""
