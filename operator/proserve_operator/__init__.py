"""The operator: keeps what an EnginePool asks for running, and says in the status of every resource how it goes."""
