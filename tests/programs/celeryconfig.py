"""Celery settings with a broker that needs no server: tasks are files in the folder `queue`."""

broker_url = "filesystem://"
broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue"}
worker_enable_remote_control = False
