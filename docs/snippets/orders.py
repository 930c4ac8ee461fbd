# orders.py
from dataclasses import dataclass
from decimal import Decimal

from arcp_io import App

app = App(name="example", version="0.1.0", tokens={"s3cret": "alice"})


@dataclass
class Order:
    number: int
    price: Decimal


@app.agent("double")
async def double(job, order: Order):  # read as an Order; an input that does not fit is INVALID_REQUEST
    job.summary = f"order {order.number}"
    return Order(order.number, order.price * 2)


async def ask(session):
    job = await session.submit("double", Order(7, Decimal("0.10")), result_type=Order)
    return await job.result()  # an Order, for type checkers too; errors.ResultMismatch if it is none
