"""Keys and values into their pages."""

from torch import Tensor


def write_cache(key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor) -> None:
    """Store each token's key and value in its slot, in place.

    Args:
        key, value: [tokens, kv_heads, head_dim].
        key_cache, value_cache: [pages, page_size, kv_heads, head_dim].
        slots: [tokens], int64; slot = page x page_size + offset in the page.
    """
    key_cache.flatten(0, 1).index_copy_(0, slots, key)
    value_cache.flatten(0, 1).index_copy_(0, slots, value)
