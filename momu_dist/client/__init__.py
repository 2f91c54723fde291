"""The client of the service. It needs `requests`, and none of the libraries that the service itself stands on.

client = Client("http://127.0.0.1:8000")
client.generate_to("dance.mp4", "a2m", "song.wav", seed=7)
job = client.batch([{"task": "a2m", "input": "song.wav", "seed": seed} for seed in range(100)])
job.wait()
job.results("dances")
"""

from momu_dist.client.calls import Client
from momu_dist.client.connection import ServiceError
from momu_dist.client.jobs import ItemState, Job, JobState

__all__ = ["Client", "ItemState", "Job", "JobState", "ServiceError"]
