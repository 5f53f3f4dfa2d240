"""Philox4x32-10 on vectors, emitted as LLVM IR: random bits that are a function of a counter.

A vector has 64-bit lanes, each with a 32-bit word in its lower half; what stands in the upper one
does not matter, as the multiplication that a CPU has for vectors, 32 x 32 -> 64 bits, passes over
it. So nothing is moved between lanes until the end.
"""

from collections.abc import Sequence
from functools import reduce
from typing import TypeAlias

from llvmlite import ir

from . import jit

_i64, _i32 = ir.IntType(64), ir.IntType(32)
Words: TypeAlias = list[ir.Value]

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
LOW = 0xFFFFFFFF


def lanes() -> int:
    """Return the counters of a vector; each gives four words."""
    return jit.vector_bytes() // 8


def order() -> ir.Constant:
    """Return which counter stands in which lane, for `draws` to come out in order."""
    n = lanes()
    numbers = [lane // 2 + lane % 2 * (n // 2) for lane in range(n)]
    return ir.Constant(ir.VectorType(_i64, n), numbers)


def spread(b: ir.IRBuilder, word: ir.Value) -> ir.Value:
    """Return a vector with a 64-bit integer in every lane."""
    n = lanes()
    vector = ir.VectorType(_i64, n)
    undefined = ir.Constant(vector, ir.Undefined)
    first = b.insert_element(undefined, word, _i32(0))
    return b.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_i32, n), [0] * n))


def keys(b: ir.IRBuilder, key: Words) -> ir.Value:
    """Return where the two words of the key for each round lie, in the last round's upper halves.

    They are read where they are used: for all of them there are not enough registers, and to fill
    vectors with them would take longer than a few units do.
    """
    table = b.alloca(_i64, 2 * ROUNDS)
    for r in range(ROUNDS):
        for i, (k, step) in enumerate(zip(key, STEPS, strict=True)):
            word = b.add(k, _i64(step * r))
            if r == ROUNDS - 1:
                word = b.shl(word, _i64(32))
            b.store(word, _place(b, table, r, i))
    return table


def _place(b: ir.IRBuilder, table: ir.Value, r: int, i: int) -> ir.Value:
    return b.gep(table, [_i64(2 * r + i)], source_etype=_i64)


def _key(b: ir.IRBuilder, table: ir.Value, r: int) -> Words:
    """Return the two words of the key for a round, in every lane."""
    return [spread(b, b.load(_place(b, table, r, i), typ=_i64)) for i in (0, 1)]


def _product(b: ir.IRBuilder, word: ir.Value, which: int) -> ir.Value:
    vector = word.type
    low, factor = (ir.Constant(vector, [v] * vector.count) for v in (LOW, MULTIPLIERS[which]))
    return b.mul(b.and_(word, low), factor)


def _shuffle(b: ir.IRBuilder, two: Words, which: Sequence[int]) -> ir.Value:
    """Return 32-bit words of two vectors, by their numbers among the eight of each 16 bytes."""
    n = 2 * lanes()
    narrow = ir.VectorType(_i32, n)
    numbers = [w % 4 + start + w // 4 * n for start in range(0, n, 4) for w in which]
    first, second = (b.bitcast(v, narrow) for v in two)
    return b.shuffle_vector(first, second, ir.Constant(narrow, numbers))


def _mix(b: ir.IRBuilder, product: ir.Value, *words: ir.Value) -> ir.Value:
    """Return the upper half of a product, with words.

    What moves it may be done where neither products nor shifts are.
    """
    upper = b.bitcast(_shuffle(b, [product] * 2, (1, 1, 3, 3)), product.type)
    return b.xor(upper, reduce(b.xor, words))


def _beside(b: ir.IRBuilder, product: ir.Value, word: ir.Value, key: ir.Value) -> ir.Value:
    """Return a product, its upper half with what `_mix` gives there, which stays beside the lower.

    The key's word is in the upper half already.
    """
    up = b.shl(word, ir.Constant(word.type, [32] * word.type.count))
    return b.xor(product, b.xor(up, key))


def ahead(b: ir.IRBuilder, rest: Words, table: ir.Value) -> Words:
    """Return what the last three words of a counter come to in the first three rounds alone.

    Where they are the same for many counters, `philox` need not do it again for each.
    """
    (c1, c2, c3), (k0, k1), (l0, l1), (_, m1) = rest, *(_key(b, table, r) for r in range(3))
    second = _product(b, c2, 1)
    first = _product(b, _mix(b, second, c1, k0), 0)
    return [b.xor(c3, k1), b.xor(second, l0), _mix(b, first, l1), b.xor(first, m1)]


def philox(b: ir.IRBuilder, counters: Words, done: Words, table: ir.Value) -> list[Words]:
    """Return the four words of each lane's counter as two vectors: words 1 and 0, and 3 and 2.

    Parameters
    ----------
    counters : list of vectors
        First words of counters. Their rounds go side by side, for each waits for its last.
    done : list of vectors
        What `ahead` makes of the other three, which all counters have in common.
    table : pointer
        The key, as `keys` lays it.
    """
    of_first, of_second, crossing, of_third = done
    sets = []
    for c0 in counters:
        a = _product(b, c0, 0)
        c = _product(b, _mix(b, a, of_first), 1)
        sets.append([_mix(b, c, of_second), c, b.xor(crossing, a), of_third])
    for r in range(2, ROUNDS):
        k0, k1 = _key(b, table, r)
        mix = _mix if r < ROUNDS - 1 else _beside
        products = [(_product(b, c0, 0), _product(b, c2, 1)) for c0, _, c2, _ in sets]
        sets = [
            [mix(b, c, c1, k0), c, mix(b, a, *((c3, k1) if r > 2 else (c3,))), a]
            for (a, c), (_, c1, _, c3) in zip(products, sets, strict=True)
        ]
    return [[first, second] for first, _, second, _ in sets]


def draws(b: ir.IRBuilder, words: Words) -> Words:
    """Return the words of all counters, those of one side by side, as vectors of 32-bit lanes.

    Lanes of `words` are in the `order` that needs no word to leave its 16 bytes.
    """
    return [_shuffle(b, words, which) for which in ((1, 0, 5, 4), (3, 2, 7, 6))]
