"""Loggers by name: TensorBoard, CSV files, and the services wandb, mlflow and trackio.

metrics.jsonl, see cls.run.telemetry, is always written. config.log.to names further loggers, and
each is imported when it is asked for:

  name         package        shows besides numbers
  tensorboard  tensorboardX   images, histograms, the confusion matrix, the summary
  csv          none           the confusion matrix
  wandb        wandb          images, histograms, the confusion matrix, the summary
  mlflow       mlflow         images, the confusion matrix, the summary
  trackio      trackio        images, histograms, the confusion matrix, the summary

TensorBoard and CSV files are in the run folder. A service has a run of its own, and loggers.json in
the run folder has its id: a run that is killed continues there, and no step is logged twice.

May import: errors, storage.
"""
