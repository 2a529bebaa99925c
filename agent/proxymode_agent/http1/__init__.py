"""HTTP/1.1 on asyncio: requests to one server, and small answers to whoever asks. What the agent needs and no more: a
general library takes half of the agent's start to import."""
