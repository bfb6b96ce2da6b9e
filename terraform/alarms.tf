# What tells of trouble, with the thresholds of template.yaml.

locals {
  alarm_actions = var.alarm_topic_arn == "" ? [] : [var.alarm_topic_arn]
  # As AWS/NetworkELB writes it: targetgroup/NAME/ID.
  dimensions = { for key, binding in var.bindings : key => { TargetGroup = split(":", binding.target_group_arn)[5] } }
}

resource "aws_cloudwatch_metric_alarm" "sync_failed" {
  for_each = var.bindings

  alarm_name        = "${var.name}-${each.key}-sync-failed"
  alarm_description = "${each.value.hostname}: in 3 of the last 5 minutes its target group could not be brought in step with DNS. No target that DNS may still give was taken away. The function's log says why."
  namespace         = "NlbHostnameTargets"
  metric_name       = "Failures"
  dimensions        = local.dimensions[each.key]
  # Beside a watch a minute has several values, and one that is 0 has brought the target group in step.
  statistic           = "Minimum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
  tags                = local.tags

  depends_on = [aws_scheduler_schedule.this]
}

resource "aws_cloudwatch_metric_alarm" "no_healthy_target" {
  for_each = var.bindings

  alarm_name        = "${var.name}-${each.key}-no-healthy-target"
  alarm_description = "${each.value.hostname}: for 5 minutes no target has been healthy, so nobody can connect. Is the database up, and does its security group admit the load balancer?"
  namespace         = "NlbHostnameTargets"
  metric_name       = "HealthyTargets"
  dimensions        = local.dimensions[each.key]
  # A target of a new load balancer may take minutes to its first health check.
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 5
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  treat_missing_data  = "ignore"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
  tags                = local.tags

  depends_on = [aws_scheduler_schedule.this]
}

resource "aws_cloudwatch_metric_alarm" "refused_addresses" {
  for_each = var.bindings

  alarm_name          = "${var.name}-${each.key}-refused-addresses"
  alarm_description   = "${each.value.hostname}: in 3 of the last 5 minutes DNS gave addresses that may not be registered. A publicly accessible database needs the function in its VPC."
  namespace           = "NlbHostnameTargets"
  metric_name         = "RefusedAddresses"
  dimensions          = local.dimensions[each.key]
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
  tags                = local.tags

  depends_on = [aws_scheduler_schedule.this]
}

# Of those that are found by their tags, too: which ones there will be is not known here, and an alarm takes no search.
resource "aws_cloudwatch_metric_alarm" "found_no_healthy_target" {
  count = var.discover_by_tags ? 1 : 0

  alarm_name        = "${var.name}-found-no-healthy-target"
  alarm_description = "${var.name}: for 5 minutes some target group has had no healthy target, of all that have metrics in the namespace NlbHostnameTargets. Which ones, a check says."

  metric_query {
    id          = "healthy"
    label       = "Healthy targets of the target group that has fewest"
    expression  = "SELECT MIN(HealthyTargets) FROM SCHEMA(NlbHostnameTargets, TargetGroup)"
    period      = 60
    return_data = true
  }

  evaluation_periods  = 5
  datapoints_to_alarm = 5
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  treat_missing_data  = "ignore"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
  tags                = local.tags

  depends_on = [aws_scheduler_schedule.this]
}

resource "aws_cloudwatch_metric_alarm" "not_running" {
  alarm_name        = "${var.name}-not-running"
  alarm_description = "${var.name}: for 5 minutes the function has not run, so its target groups no longer follow DNS. Is its schedule enabled, and is the account's concurrency used up?"
  namespace         = "AWS/Lambda"
  metric_name       = "Invocations"
  dimensions        = { FunctionName = aws_lambda_function.this.function_name }
  statistic         = "Sum"
  period            = 60
  # Runs that come late leave a minute empty now and then.
  evaluation_periods  = 5
  datapoints_to_alarm = 5
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  # Lambda sends nothing of a function that does not run. A new one fires until its first run.
  treat_missing_data = "breaching"
  alarm_actions      = local.alarm_actions
  ok_actions         = local.alarm_actions
  tags               = local.tags

  depends_on = [aws_scheduler_schedule.this]
}

resource "aws_cloudwatch_metric_alarm" "function_errors" {
  alarm_name          = "${var.name}-function-errors"
  alarm_description   = "${var.name}: in 3 of the last 5 minutes a run of the function ended with an error, for any of its target groups. Its log says why."
  namespace           = "AWS/Lambda"
  metric_name         = "Errors"
  dimensions          = { FunctionName = aws_lambda_function.this.function_name }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
  tags                = local.tags

  depends_on = [aws_scheduler_schedule.this]
}

resource "aws_cloudwatch_metric_alarm" "function_throttles" {
  alarm_name          = "${var.name}-function-throttles"
  alarm_description   = "${var.name}: in 3 of the last 5 minutes Lambda did not run the function. The account's concurrency is used up."
  namespace           = "AWS/Lambda"
  metric_name         = "Throttles"
  dimensions          = { FunctionName = aws_lambda_function.this.function_name }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
  tags                = local.tags

  depends_on = [aws_scheduler_schedule.this]
}
