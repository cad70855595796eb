"""What script/server and script/test do once .venv exists: Redis, Docker, the processes, the tests."""
