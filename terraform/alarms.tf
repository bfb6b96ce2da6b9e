# What tells of trouble, with the thresholds of template.yaml.

locals {
  alarm_actions = var.alarm_topic_arn == "" ? [] : [var.alarm_topic_arn]
}

resource "aws_cloudwatch_metric_alarm" "no_healthy_target" {
  for_each = var.bindings

  alarm_name        = "${var.name}-${each.key}-no-healthy-target"
  alarm_description = "page: for 5 minutes no target of ${each.value.hostname} has been healthy, so nobody can connect. docs/operations.md#no-healthy-target"
  # The load balancer's own metric, which does not need the function to send anything; the function's where the binding
  # does not say which load balancer. Dimensions as AWS writes them: targetgroup/NAME/ID and net/NAME/ID.
  namespace   = each.value.load_balancer_arn == "" ? "NlbHostnameTargets" : "AWS/NetworkELB"
  metric_name = each.value.load_balancer_arn == "" ? "HealthyTargets" : "HealthyHostCount"
  dimensions = merge(
    { TargetGroup = split(":", each.value.target_group_arn)[5] },
    each.value.load_balancer_arn == "" ? {} : { LoadBalancer = split(":loadbalancer/", each.value.load_balancer_arn)[1] },
  )
  # A target of a new load balancer may take minutes to its first health check.
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 5
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  # A group without targets sends nothing; nor does a function that may not, or can't.
  treat_missing_data = "breaching"
  alarm_actions      = local.alarm_actions
  ok_actions         = local.alarm_actions
  tags               = local.tags

  depends_on = [aws_scheduler_schedule.this]
}

# A contributor for each target group: which there will be is not known here, and an alarm takes no search.
resource "aws_cloudwatch_metric_alarm" "found_no_healthy_target" {
  count = var.discover_by_tags ? 1 : 0

  alarm_name        = "${var.name}-found-no-healthy-target"
  alarm_description = "page: for 5 minutes a target group that is found by its tags has had no healthy target, so nobody can connect. The alarm's contributors name it. docs/operations.md#no-healthy-target"

  metric_query {
    id          = "healthy"
    expression  = "SELECT MAX(HealthyTargets) FROM SCHEMA(NlbHostnameTargets, TargetGroup) GROUP BY TargetGroup ORDER BY MAX() ASC"
    period      = 60
    return_data = true
  }

  evaluation_periods  = 5
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  treat_missing_data  = "breaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
  tags                = local.tags

  depends_on = [aws_scheduler_schedule.this]
}

resource "aws_cloudwatch_metric_alarm" "function_errors" {
  alarm_name          = "${var.name}-function-errors"
  alarm_description   = "ticket: in 3 of the last 5 minutes a run of the function ended with an error, for any of its target groups. docs/operations.md#function-errors"
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

resource "aws_cloudwatch_metric_alarm" "not_running" {
  alarm_name        = "${var.name}-not-running"
  alarm_description = "ticket: for 5 minutes the function has not run, so its target groups no longer follow DNS. docs/operations.md#not-running"
  namespace         = "AWS/Lambda"
  metric_name       = "Invocations"
  dimensions        = { FunctionName = aws_lambda_function.this.function_name }
  statistic         = "Sum"
  period            = 60
  # Runs that come late leave a minute empty now and then.
  evaluation_periods  = 5
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  # Lambda sends nothing of a function that does not run. A new one fires until its first run.
  treat_missing_data = "breaching"
  alarm_actions      = local.alarm_actions
  ok_actions         = local.alarm_actions
  tags               = local.tags

  depends_on = [aws_scheduler_schedule.this]
}
