from fake_clients import connect

__all__ = ["connect"]
