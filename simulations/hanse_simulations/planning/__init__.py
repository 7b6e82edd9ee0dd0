"""What a federation can afford before it begins: noise, signal, rounds, and what to train.

Under differential privacy noise grows with the square root of what is trained, and a region
has a few hundred customers. This is arithmetic on settings and head counts; it looks at no
customer and spends no budget.

>>> from hanse_common.config import DataSettings, RunSettings
>>> from hanse_simulations.planning.forecast import Population, forecast
>>> from hanse_simulations.planning.variants import Variant
>>> settings = RunSettings(recipe="planned", data=DataSettings(source="synthetic"))
>>> planned = forecast(settings, Population((300,) * 8), [Variant("400", 400)])
>>> planned.rows[0].parameters, planned.recommendation.variant
(400, '400')
"""
