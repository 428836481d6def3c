"""The HTTP data port: bytes to requests, the OpenAI routes, their document, and answers back."""
