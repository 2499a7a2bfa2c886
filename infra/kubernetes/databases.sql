-- Run once, when the data volume is empty: one database each for Prefect (made by the image) and MLflow.
CREATE DATABASE mlflow OWNER opsd;
