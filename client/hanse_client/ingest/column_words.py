"""Words that shops name their columns by, for proposing what a column is.

>>> plain("Customer ID") in NAMES["user_id"], plain("customerId") in NAMES["user_id"]
(True, True)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

# Words that names of columns are made of, the surest first. Names are compared without case,
# blanks and signs, so that "Customer ID", "customer_id" and "customerId" are one.
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "user_id": (
        *("customeruniqueid", "userid", "customerid", "customer", "memberid", "member"),
        *("visitorid", "clientid", "householdkey", "householdid", "cardno", "cardnumber"),
        *("loyaltycard", "card", "user", "customerno", "customernumber", "domainuserid"),
        *("userpseudoid", "customeremail", "email", "kunde", "kundennummer", "auftraggeber"),
        *("buyerid", "shopperid", "sessionid", "用户id", "会员编号"),
    ),
    "item_id": (
        *("itemid", "sku", "productid", "skuid", "variantsku", "lineitemsku", "stockcode"),
        *("articleid", "articleno", "product", "item", "goodsid", "asin", "artikelnummer"),
        *("material", "variantid", "iid", "ean", "plu", "streamproductid", "商品编号", "商品id"),
    ),
    "timestamp": (
        *("createdat", "createtime", "datecreated", "timestamp", "datetime", "eventtime"),
        *("invoicedate", "orderdate", "orderedat", "soldat", "purchasedate", "transactiondate"),
        *("transactiondt", "transactiontimestamp", "eventtimestamp", "paidat", "eventdate"),
        *("orderpurchasetimestamp", "derivedtstamp", "collectortstamp", "fakturadatum", "datum"),
        *("zeit", "date", "time", "day"),
    ),
    "event_type": ("eventtype", "event", "eventname", "behavior", "behaviour", "action", "type"),
    "basket_id": (
        *("basketid", "orderid", "invoiceno", "invoice", "receipt", "receiptno", "ticket"),
        *("transactionid", "ordernumber", "bon", "cartid", "ordername", "saleid", "faktura"),
    ),
    "shop_id": (
        *("shopid", "storeid", "store", "branch", "shop", "filiale", "location", "site", "werk"),
    ),
    "quantity": (
        *("quantity", "qty", "units", "amountofunits", "menge", "lineitemquantity", "count"),
        *("qtyordered", "productqty", "unitquantity", "fakturiertemenge"),
    ),
    "price": ("price", "unitprice", "lineitemprice", "preis", "itemprice", "sellingprice"),
    "amount": (
        *("salesprice", "amount", "total", "linetotal", "salesvalue", "revenue", "netamount"),
        *("productnetrevenue", "netsales", "umsatz", "nettowert"),
    ),
    "rating": ("rating", "stars", "score"),
    "text": (
        *("title", "name", "productname", "itemname", "description", "productdescription", "text"),
        *("review", "reviewtext", "bezeichnung", "materialkurztext", "标题", "商品名称"),
    ),
    "category": (
        *("category", "categorypath", "fullpathname", "categoryname", "categories"),
        *("productcategory", "producttype", "aisle", "categoryid", "department", "group"),
        *("productsubclass", "productgroup", "warengruppe", "cate", "类目", "type"),
    ),
    "brand": ("brand", "vendor", "manufacturer", "marke"),
}


def plain(name: str) -> str:
    """A name without case, blanks and signs."""
    return re.sub(r"[\W_]", "", name).lower()
