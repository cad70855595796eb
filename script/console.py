"""What the scripts tell the person who runs them."""


class Problem(Exception):
    """A reason to give up, told as one message that says what to do; never shown as a traceback."""


def say(text: str) -> None:
    print(f"==> {text}", flush=True)
